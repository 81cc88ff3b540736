"""The entry script that Streamlit runs for every session: navigation, and which model is looked at.

The page files lie in `routes`, not in `pages`: a folder of that name beside the entry script makes Streamlit
serve its files on their own when a link to one of them is the first visit.
"""

from __future__ import annotations

import streamlit as st

from dashboard import sidebar, state
from dashboard.frame import style
from dashboard.icon import icon

# Before the navigation, or Streamlit fetches the page's symbol from the network as the icon.
st.set_page_config(page_title="explain", page_icon=icon(), layout="wide")
page = st.navigation(
    {
        "Explain": [
            st.Page("routes/generate.py", title="Generate", icon=":material/edit_note:", default=True),
            st.Page("routes/attention.py", title="Attention", icon=":material/visibility:"),
            st.Page("routes/attribution.py", title="Attribution", icon=":material/format_ink_highlighter:"),
            st.Page("routes/inside.py", title="Inside", icon=":material/biotech:"),
            st.Page("routes/compare.py", title="Compare", icon=":material/compare_arrows:"),
            st.Page("routes/trust.py", title="Trust", icon=":material/verified:"),
            st.Page("routes/audit.py", title="Audit", icon=":material/fact_check:"),
        ],
        "Make": [
            st.Page("routes/train.py", title="Train", icon=":material/model_training:"),
            st.Page("routes/runs.py", title="Runs & reports", icon=":material/inventory_2:"),
        ],
    }
)
st.set_page_config(page_title=f"{page.title} · explain")
style()
state.follow()
sidebar.show()
state.publish()
page.run()
