"""The page Audit; see `dashboard.views.audit`."""

from dashboard.views import audit

audit.page()
