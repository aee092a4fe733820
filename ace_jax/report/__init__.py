"""The report: tables, figures and one HTML page."""
