"""Moves the configs of installed launchers to the group hydra/launcher/installed, from which conf/ inherits them.

An installed launcher registers its config under a name such as hydra/launcher=joblib, which is also that of a file in
conf/hydra/launcher. Hydra would merge the two by their name, with a warning that this is deprecated.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

from engine.config.did_you_mean import CONF, INSTALLED


class InstalledLaunchers(SearchPathPlugin):
    """Called by Hydra each time it creates a search path: after all plugins have registered their configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Move the configs whose names conf/ uses; the search path stays as it is."""
        store = ConfigStore.instance()
        launchers = store.repo["hydra"]["launcher"]  # ConfigStore has no method that removes a config
        for file in (CONF / "hydra" / "launcher").glob("*.yaml"):
            if entry := launchers.pop(file.name, None):
                store.store(group=f"hydra/launcher/{INSTALLED}", name=file.stem, node=entry.node)
