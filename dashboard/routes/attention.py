"""The page Attention; see `dashboard.views.attention`."""

from dashboard.views import attention

attention.page()
