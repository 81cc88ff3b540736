"""Reports: attributions and evaluations as figures and offline pages, and a report over many outputs.

`explain.report` is this package and, in the public surface, the function of the same name: the package can be
called, so that `import explain; explain.report(model, data)` works whether or not it was imported before.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from explain.report import plots
from explain.report.comparison import comparison_page
from explain.report.document import Example, Report, attribution_page, report
from explain.report.evaluation import evaluation_page

__all__ = ["Example", "Report", "attribution_page", "comparison_page", "evaluation_page", "plots", "report"]


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Report:
        return report(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
