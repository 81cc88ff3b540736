"""The page Inside; see `dashboard.views.inside`."""

from dashboard.views import inside

inside.page()
