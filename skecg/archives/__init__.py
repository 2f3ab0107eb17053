"""Archives: millions of records, embedded chunk by chunk on many machines by engines that exist."""
