"""The dashboard: a Streamlit app over the rooms of `explain`, started by `dashboard.serve.serve`.

```
serve.py       starts the server: loopback only, nothing sent anywhere
app.py         the entry script: navigation, and the sidebar's choice of model
catalogue.py   which models and runs may be opened
state.py       the view: what is on the page, as a link
evaluations.py which methods to believe: what is kept with a model, and the jobs that make it
examples.py    texts kept in the runs folder, so that links stay short
cache.py       opened models, generations, attention and attributions, shared by all sessions
frame.py       theme, page heads, notices: what every page looks like
labels.py      foreign text made harmless, numbers made readable
inputs.py      the form that writes or scores an output
components/    token strips, the grid of heads, the ranking of methods (components v2)
views/         what the pages show; routes/ are the files that the navigation names
```
"""
