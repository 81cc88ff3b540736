"""The page Generate; see `dashboard.views.generate`."""

from dashboard.views import generate

generate.page()
