"""Report pages: one self-contained HTML file each, with its charts inside, readable offline.

``page.py`` builds a page, ``figures.py`` has what all charts share, ``environment.py`` describes
the machine. This package measures nothing; ``bench`` and ``parity`` decide what pages contain.
Needs the extra ``fusedmlp[report]``; importing it does not.
"""

from fusedmlp.report.environment import environment, environment_rows
from fusedmlp.report.page import Column, Page, Picture, Table, check_report_installed

__all__ = [
    "Column",
    "Page",
    "Picture",
    "Table",
    "check_report_installed",
    "environment",
    "environment_rows",
]
