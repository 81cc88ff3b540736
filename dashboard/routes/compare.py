"""The page Compare; see `dashboard.views.compare`."""

from dashboard.views import compare

compare.page()
