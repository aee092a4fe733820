"""The report as one HTML page: packed answers, tables as JSON, template, style and scripts."""
