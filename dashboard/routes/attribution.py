"""The page Attribution; see `dashboard.views.attribution`."""

from dashboard.views import attribution

attribution.page()
