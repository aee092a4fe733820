"""The report as one page: answers packed, tables as JSON, a template, its style and its script."""
