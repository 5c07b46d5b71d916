"""Forms of the report for auditors: HTML, CSV and JSON."""
