"""Pages that people keep and send on: one HTML file each, pictures inside, readable offline.

``page.py`` puts a page together, ``figures.py`` draws, ``environment.py`` says where the figures
were taken. What a page is about is decided by those who build one: this package measures nothing.
Needs the extra ``fusedmlp[report]``; importing it does not.
"""

from fusedmlp.report.environment import environment, environment_rows
from fusedmlp.report.page import Column, Page, Table, check_report_installed

__all__ = [
    "Column",
    "Page",
    "Table",
    "check_report_installed",
    "environment",
    "environment_rows",
]
