"""The page Trust; see `dashboard.views.trust`."""

from dashboard.views import trust

trust.page()
