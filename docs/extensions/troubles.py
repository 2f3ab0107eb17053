"""What can go wrong, as code that makes it go wrong; messages in the documentation are those that the code gives."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

from bench import lay_out

from skecg.errors import SkecgWarning

__all__ = ["TROUBLES", "Trouble", "messages"]


class Trouble(NamedTuple):
    """A name in ``skecg.errors``, the code that meets it, the cure, and what is done beforehand out of sight."""

    kind: str
    code: str
    cure: str
    before: str = ""


TROUBLES = [
    Trouble(
        "InputError",
        "encoder, spec = skecg.load_encoder('default')\nskecg.prepare(record, spec)",
        "Functions over many records take a sequence, even of one.",
    ),
    Trouble(
        "ParameterError",
        "JEPAEmbedder(pooling='median').fit(records)",
        "Use one of the values named. The constructor stores what it is given; ``fit`` looks at it.",
    ),
    Trouble(
        "ParameterError",
        "JEPAEmbedder(stride=20).fit_transform(records)",
        "A stride is in seconds. Leave it out for windows that follow one another.",
    ),
    Trouble(
        "ParameterError",
        "JEPAEmbedder(cache='disc').fit(records)",
        "``'disk'`` is the cache in your cache folder; any other folder is named with a slash, ``'./disc'``.",
    ),
    Trouble(
        "ParameterError",
        "skecg.read_record('ecg0', sampling_rate=500)",
        "Only tables and arrays are told their rate. A header that states a wrong one has to be corrected.",
    ),
    Trouble("ShapeError", "JEPAEmbedder().fit('ecg0')", "One record is a list of one: ``['ecg0']``."),
    Trouble(
        "ShapeError",
        "JEPAEmbedder(sampling_rate=250).fit(np.zeros((8, 2500, 12)))",
        "Leads come before samples: ``np.swapaxes(X, -1, -2)``.",
    ),
    Trouble(
        "ShapeError",
        "ECGRecord(np.zeros(2500), 250, ['II'])",
        "A single lead still is a row: ``signal[np.newaxis]``.",
    ),
    Trouble(
        "SamplingRateError",
        "JEPAEmbedder().fit(X)",
        "Arrays do not know their rate: ``JEPAEmbedder(sampling_rate=250)``.",
    ),
    Trouble(
        "SamplingRateError",
        "JEPAEmbedder().fit(X, sampling_rate=[250, 500])",
        "Give one number for all records, or one for each of them.",
    ),
    Trouble(
        "UnitsError",
        "JEPAEmbedder(sampling_rate=250, units='mW').fit(X)",
        "Write the unit as a symbol.",
    ),
    Trouble(
        "LeadError",
        "JEPAEmbedder(sampling_rate=250).fit(X[:, :8])",
        "Name the rows. Only twelve in the standard order may go without names.",
    ),
    Trouble(
        "LeadError",
        "JEPAEmbedder(sampling_rate=250, leads=['I', 'II']).fit(X)",
        "Give as many names as the arrays have rows.",
    ),
    Trouble(
        "LeadError",
        "from skecg.spec import InputSpec\n\n"
        "spec = InputSpec(('I', 'II', 'V1'), sampling_rate=250, window_samples=2500)\n"
        "skecg.prepare([ECGRecord(record.signal[:2], 250, ['I', 'II'])], spec)",
        "Weights that were made for any subset of leads (the bundled ones are) never ask. Others want every lead; limb "
        "leads are derived from two others where they are absent. ``missing_leads`` names a policy for the rest.",
    ),
    Trouble(
        "LeadError",
        "swapped = ECGRecord(record.signal, 250, ['II', 'I', *record.leads[2:]], name='swapped')\n"
        "JEPAEmbedder().fit_transform([swapped])",
        "The limb leads obey Einthoven's law in one order only, or with one of them upside down. Correct the names, "
        "at the source if you can; a lead that is named ``-aVR`` is left out, and aVR computed from the others.",
    ),
    Trouble(
        "ShortRecordError",
        "short = ECGRecord(record.signal[:, :200], 250, record.leads, name='short')\n"
        "JEPAEmbedder().fit_transform([short])",
        "``short_records='pad'`` embeds it all the same; its padding is kept out of attention and pooling.",
    ),
    Trouble(
        "BadSignalError",
        "flat = ECGRecord(np.zeros((12, 2500)), 250, record.leads, name='flat')\nJEPAEmbedder().fit_transform([flat])",
        "Look at how the record was made. ``on_bad_record='warn'`` gives it a row of NaN.",
    ),
    Trouble(
        "BadSignalError",
        "signal = record.signal.copy()\nsignal[0, 100] = np.inf\n"
        "JEPAEmbedder().fit_transform([ECGRecord(signal, 250, record.leads, name='infinite')])",
        "Gaps are NaN. Infinite values are mistakes: ``signal[np.isinf(signal)] = np.nan``.",
    ),
    Trouble(
        "RecordReadError",
        "skecg.read_record('ecg0' * 100)",
        "The parent of the three below, raised itself when the system refuses a path.",
    ),
    Trouble("RecordNotFoundError", "skecg.read_record('ecg77')", "Similar names that do exist are listed."),
    Trouble(
        "DamagedRecordError",
        "skecg.read_record('truncated')",
        "Fetch the file again. To go on without it: ``JEPAEmbedder(on_bad_record='warn')``, or "
        "``read_records(paths, errors='return')``.",
    ),
    Trouble(
        "UnsupportedFormatError",
        "skecg.read_record('notes.doc')",
        "Export the recording in one of the formats listed above, or make an :class:`skecg.ECGRecord` of its samples.",
    ),
    Trouble("WeightsNotFoundError", "JEPAEmbedder('untraind-temporal').fit(records)", "``skecg models`` lists names."),
    Trouble(
        "HubUnreachableError",
        "JEPAEmbedder('someone/ecg-encoder', local_files_only=True).fit(records)",
        "Fetch the weights where there is a network, and carry the folder: see :doc:`hub`.",
    ),
    Trouble(
        "HubAccessError",
        "from skecg.hub import publish\n\npublish('my-weights', 'someone/ecg-encoder', allow=['untrained'])",
        "Log in with a token of your account on the Hub. Loading public weights takes none.",
        before="import sys, types\nimport huggingface_hub\n"
        "hidden = {'huggingface_hub': huggingface_hub}\n"
        "sys.modules['huggingface_hub'] = types.ModuleType('huggingface_hub')\n"
        "sys.modules['huggingface_hub'].get_token = lambda: None\n"
        "sys.modules['huggingface_hub'].HfApi = None",
    ),
    Trouble(
        "ForeignRepositoryError",
        "from skecg.hub import load_pipeline\n\nload_pipeline('./my-weights')",
        "Weights and pipelines are two things: weights go to ``JEPAEmbedder``, whatever is neither cannot be loaded.",
    ),
    Trouble(
        "PublishError",
        "from skecg.hub import publish\n\npublish('my-weights', 'someone/ecg-encoder', dry_run=True)",
        "Mend what is named, or allow it by its name: see :doc:`hub`.",
    ),
    Trouble(
        "DamagedWeightsError",
        "skecg.load_encoder('cut-weights')",
        "Fetch the folder again. Weights are never loaded in part.",
    ),
    Trouble("WeightsFormatError", "JEPAEmbedder('future-weights').fit(records)", "Upgrade skecg."),
    Trouble(
        "UnregisteredError",
        "from skecg.encoders import read_encoder_config\n\nread_encoder_config('their-shape', {'width': 64})",
        "Install the plug-in that has it, or import it first (``--plugin`` in a shell). See :doc:`any_encoder`.",
    ),
    Trouble(
        "ForeignCheckpointError",
        "from skecg.convert import convert_kim\n\nconvert_kim('download.pth', 'kim')",
        "Download the file again, and compare its digest if its authors give one. See :doc:`converting`.",
    ),
    Trouble(
        "CacheError",
        "JEPAEmbedder(cache='./notes.doc').fit_transform(records)",
        "Name a folder that can be written, or leave the cache in memory.",
    ),
    Trouble(
        "CacheUnavailableError",
        "from skecg.embedding_cache import DiskCache\n\nDiskCache('/proc/nowhere').get([b'a key'])",
        "Make room, or name a folder that can be written. An embedder warns and goes on without it.",
    ),
    Trouble(
        "MissingDependencyError",
        "from skecg.plotting import plot_ecg\n\nplot_ecg(record)",
        "Install the extra that is named.",
        before="import sys\nhidden = {name: sys.modules.get(name) for name in ('matplotlib', 'matplotlib.figure')}\n"
        "sys.modules.update(dict.fromkeys(hidden))",
    ),
    Trouble(
        "UnitsWarning",
        "JEPAEmbedder(sampling_rate=250).fit_transform(X * 1000)",
        "``units='uV'``, if microvolts they are.",
    ),
    Trouble(
        "LeadWarning",
        "skecg.read_record('two-rates.edf')",
        "Nothing has to be done unless you need those leads.",
        before="import edfio\n"
        "signals = [edfio.EdfSignal(record.signal[i], 250, label=f'ECG {record.leads[i]}', physical_dimension='mV',\n"
        "                           physical_range=(-8, 8)) for i in range(3)]\n"
        "signals.append(edfio.EdfSignal(record.signal[6, ::2], 125, label='ECG V1', physical_dimension='mV',\n"
        "                               physical_range=(-8, 8)))\n"
        "edfio.Edf(signals).write('two-rates.edf')",
    ),
    Trouble(
        "SignalWarning",
        "signal = record.signal.copy()\nsignal[6] = 0\n"
        "JEPAEmbedder().fit_transform([ECGRecord(signal, 250, record.leads, name='loose electrode')])",
        "The record is embedded as it is. Leave the lead out when building the record, if the encoder allows.",
    ),
    Trouble(
        "SignalWarning",
        "signal = record.signal.copy()\nsignal[6, 500:600] = np.nan\n"
        "JEPAEmbedder().fit_transform([ECGRecord(signal, 250, record.leads, name='with a gap')])",
        "Short gaps are harmless. Cut the record where they are long.",
    ),
    Trouble(
        "SignalWarning",
        "JEPAEmbedder(on_bad_record='warn').fit_transform(['ecg0', 'truncated', 'ecg1'])",
        "The row is there and holds NaN: drop it together with its label.",
    ),
    Trouble(
        "HeaderRepairWarning",
        "skecg.read_record('renamed')",
        "The record was read and is sound. Correct the header to silence the warning.",
    ),
    Trouble(
        "LeakageWarning",
        "from skecg.splits import warn_of_shared_patients\n\n"
        "warn_of_shared_patients(5, X, y, patients=np.arange(len(X)) // 4)",
        "Split by patients: see :doc:`caching`.",
    ),
    Trouble(
        "DatasetNotFoundError",
        "skecg.datasets.fetch_ludb('data', download_if_missing=False)",
        "Let it be downloaded, or pass the folder of the copy itself.",
        before="import skecg.datasets",
    ),
    Trouble(
        "DownloadError",
        "skecg.datasets.fetch_ludb('data', base_url='http://localhost:9/', n_retries=0, verbose=0)",
        "Whatever came in is kept: run the same again when there is a connection, or copy the data set by other means.",
        before="import skecg.datasets",
    ),
    Trouble(
        "ClusterError",
        "skecg.archives.check_scheduler('localhost:9')",
        "Start the scheduler, or take a share of the work without one by ``--part``.",
        before="import skecg.archives",
    ),
    Trouble(
        "CacheWarning",
        "JEPAEmbedder(cache='./damaged-cache').fit_transform(records)",
        "Nothing has to be done: embeddings are computed again.",
        before="from pathlib import Path\nfrom skecg.embedding_cache.sqlite import DATABASE_NAME\n"
        "Path('damaged-cache').mkdir()\n"
        "Path('damaged-cache', DATABASE_NAME).write_bytes(b'x' * 9999)",
    ),
]


def messages(troubles: list[Trouble]) -> list[str]:
    """Run the code of each and give what it said; an AssertionError when one is not met any more."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names = lay_out(Path(folder))
        return [_message(trouble, dict(names)).replace(f"{Path(folder).resolve()}/", "") for trouble in troubles]


def _message(trouble: Trouble, names: dict[str, object]) -> str:
    """Run code and give the message of the error or warning that it is known for."""
    exec(trouble.before, names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(trouble.code, names)
            found = [
                (one.category.__name__, str(one.message)) for one in caught if issubclass(one.category, SkecgWarning)
            ]
        except Exception as error:  # whatever comes is compared with what should
            found = [(type(error).__name__, str(error))]
        finally:
            _restore(names)
    if [kind for kind, _ in found] != [trouble.kind]:
        raise AssertionError(f"{trouble.code}\n  should give one {trouble.kind}, gave {found}")
    return found[0][1]


def _restore(names: dict[str, object]) -> None:
    """Put back the modules that were hidden."""
    for name, module in names.get("hidden", {}).items():  # type: ignore[attr-defined]
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
