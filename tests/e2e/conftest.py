"""What tests of the images share."""

from collections.abc import Iterator

import pytest

from tests.e2e.engine import Workshop, image_workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One for all, so that no image is built twice."""
    with image_workshop(tmp_path_factory.mktemp("images") / "postern") as made:
        yield made
