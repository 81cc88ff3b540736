"""Hidden states on a plane: principal components, or UMAP where it is installed."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from explain.analysis.representations import Row, StateTable
from explain.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

By: TypeAlias = Literal["pca", "umap"]
MOST = 5_000
# Neighbourhoods are compared among so many rows: the comparison takes their square in time and memory.
_COMPARED = 1_500
NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows of hidden states as points in few dimensions.

    Attributes:
        point: the hook point.
        by: `pca` or `umap`.
        coordinates: float [row, component].
        rows: what each row is about.
        explained: by component the share of the states' variance that lies along it, 0 to 1; empty for UMAP,
            whose axes have no such meaning.
        trustworthiness: how far points that are near here are near in the states as well, of each the nearest
            10 (Venna & Kaski 2001): 1: all are; what chance gives is about .5. nan where rows are too few.
        width: how many dimensions the states have.
        total: how many rows there were; a random part of them is shown where they are too many.
        settings: every setting that shaped the picture.
        data: what the data are called.
        model_digest: of the model that was looked at.
        data_digest: of the texts.
    """

    point: str
    by: By
    coordinates: np.ndarray
    rows: tuple[Row, ...]
    explained: tuple[float, ...]
    trustworthiness: float
    width: int
    total: int
    settings: Mapping[str, Any]
    data: str = ""
    model_digest: str = ""
    data_digest: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row per point: `x`, `y` (and `z`), then what the row is about."""
        import pandas as pd

        axes = {name: self.coordinates[:, i] for i, name in enumerate(_AXES[: self.coordinates.shape[1]])}
        return pd.DataFrame({**axes, **pd.DataFrame([asdict(row) for row in self.rows])})

    def to_dict(self) -> dict[str, Any]:
        """The projection as a JSON object; `from_dict` reads it back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **own,
            "coordinates": self.coordinates.tolist(),
            "rows": [asdict(row) for row in self.rows],
            "explained": list(self.explained),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Projection:
        """Read a projection back from its JSON object; null stands for nan."""
        known = {f.name: data[f.name] for f in fields(cls)}
        trust = known["trustworthiness"]
        return cls(
            **{
                **known,
                "coordinates": np.asarray(known["coordinates"], dtype=np.float64),
                "rows": tuple(Row(**row) for row in known["rows"]),
                "explained": tuple(known["explained"]),
                "trustworthiness": math.nan if trust is None else trust,
            }
        )


_AXES = ("x", "y", "z")


def project(
    table: StateTable,
    by: By = "pca",
    *,
    components: int = 2,
    rows: int = MOST,
    seed: int = 0,
    neighbours: int = 15,
    min_distance: float = 0.1,
) -> Projection:
    """Put hidden states on a plane.

    PCA turns the states so that the first axes hold most of their variance, and is exact; UMAP (McInnes et
    al. 2018, arXiv:1802.03426) keeps neighbours together and says nothing about distances between groups or
    about their sizes.

    Args:
        table: hidden states at one hook point.
        by: `pca` or `umap`.
        components: dimensions of the picture, 2 or 3.
        rows: points at most; of more rows a random part is taken.
        seed: of taking it, and of UMAP.
        neighbours: UMAP's `n_neighbors`: more keep the large shape rather than the small one.
        min_distance: UMAP's `min_dist`, 0 to 1: how close points may lie.

    Raises:
        UnknownNameError: there is no such projection.
        InputError: too few rows, states that are all the same, or UMAP is asked for and not installed.
    """
    by = require_projection(by)
    if components not in (2, 3):
        raise InputError(f"components is {components}; a picture has 2 or 3")
    if rows < 4 or len(table.rows) < 4:
        raise InputError(f"a projection needs at least 4 rows, not {min(rows, len(table.rows))}")
    umap = _umap() if by == "umap" else None
    if len(table.rows) > rows:
        drawn = np.random.default_rng(seed).choice(len(table.rows), size=rows, replace=False)
        shown = table.take(sorted(drawn.tolist()))
    else:
        shown = table
    states = shown.values.numpy().astype(np.float64)
    if min(states.shape) < components or not states.std(0).max() > 0:
        raise InputError(f"the states at {table.point} do not span {components} dimensions")
    settings: dict[str, Any] = {"components": components, "rows": rows, "seed": seed}
    explained: tuple[float, ...] = ()
    if umap is None:
        from sklearn.decomposition import PCA

        found = PCA(n_components=components, svd_solver="full").fit(states)
        coordinates, explained = found.transform(states), tuple(found.explained_variance_ratio_.tolist())
    else:
        settings |= {"neighbours": neighbours, "min_distance": min_distance}
        coordinates = _by_umap(umap, states, components, seed, neighbours, min_distance)
    return Projection(
        point=table.point,
        by=by,
        coordinates=np.asarray(coordinates, dtype=np.float64),
        rows=shown.rows,
        explained=explained,
        trustworthiness=_trustworthiness(states, coordinates, seed),
        width=states.shape[1],
        total=len(table.rows),
        settings=settings,
        data=table.data,
        model_digest=table.model_digest,
        data_digest=table.data_digest,
    )


def require_projection(by: str) -> By:
    """The projection of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if by == "pca" or by == "umap":
        return by
    raise UnknownNameError("projection", by, get_args(By))


def _umap() -> Any:
    try:
        return importlib.import_module("umap")
    except ImportError:
        raise InputError(
            "UMAP needs the package umap-learn, which is not installed; use pca, or: "
            "pip install 'explain[umap]'"
        ) from None


def _by_umap(
    umap: Any, states: np.ndarray, components: int, seed: int, neighbours: int, min_distance: float
) -> np.ndarray:
    if neighbours < 2 or not 0 <= min_distance <= 1:
        raise InputError(
            f"neighbours is {neighbours} and min_distance {min_distance}; at least 2, and 0 to 1"
        )
    with warnings.catch_warnings():
        # A seed means one thread, of which UMAP warns.
        warnings.simplefilter("ignore")
        return umap.UMAP(
            n_components=components,
            n_neighbors=min(neighbours, len(states) - 1),
            min_dist=min_distance,
            random_state=seed,
        ).fit_transform(states)


def _trustworthiness(states: np.ndarray, coordinates: np.ndarray, seed: int) -> float:
    from sklearn.manifold import trustworthiness

    if len(states) <= 2 * NEIGHBOURS:
        return math.nan
    if len(states) > _COMPARED:
        drawn = np.random.default_rng(seed).choice(len(states), size=_COMPARED, replace=False)
        states, coordinates = states[drawn], coordinates[drawn]
    return float(trustworthiness(states, coordinates, n_neighbors=NEIGHBOURS))
