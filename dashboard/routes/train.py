"""The page Train; see `dashboard.views.train`."""

from dashboard.views import train

train.page()
