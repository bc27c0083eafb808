"""The report: one HTML file that shows what a run found and what it is made of."""

from rocm_core.report.build import make
