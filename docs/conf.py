"""How `make docs` builds the pages: README.md first, then those of docs/, and config/README.md. Sphinx reads this."""

project = html_title = "Small-batch training"
html_theme = "furo"
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_show_copyright = html_show_sphinx = False
extensions = ["myst_parser"]
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "config/README.md", "docs/*.md"]
exclude_patterns = [".*", "data", "results"]  # are not searched
root_doc = "README"
myst_heading_anchors = 3  # links to heads, as forges have them
myst_enable_extensions = ["html_image"]
nitpicky = True

CONTENTS = """
```{toctree}
:hidden:
:caption: Use
Installing <docs/install>
Running <docs/running>
On a cluster <docs/cluster>
Ten minutes <docs/ten-minutes>
Your own study <docs/study>
Configuration <config/README>
Sharing <docs/sharing>
Troubleshooting <docs/troubleshooting>
```
```{toctree}
:hidden:
:caption: Findings
Results <docs/results>
Choices <docs/choices>
Verdicts <docs/verdicts>
Statistics <docs/statistics>
Speed <docs/speed>
```
```{toctree}
:hidden:
:caption: How it is made
Internals <docs/internals>
Faults <docs/faults>
Mutants <docs/mutants>
Contributing <CONTRIBUTING>
Changes <CHANGELOG>
```
"""


def add_contents(app, name: str, source: list[str]) -> None:
    """The list of pages goes beneath the README; forges would show it as code."""
    if name == root_doc:
        source[0] += CONTENTS


def setup(app) -> None:
    """What Sphinx calls once."""
    app.connect("source-read", add_contents)
