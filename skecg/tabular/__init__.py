"""From a table of recordings and labels to a fitted model, its predictions, a report and an atlas."""
