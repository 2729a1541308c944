"""The collections that a library on a server has beside the one that answers, by the aliases they stand behind."""

from __future__ import annotations

from collections.abc import Mapping

from qdrant_client import models

from engine.memory.server_collection import Collection, described
from engine.memory.server_link import ServerLink


def collections(link: ServerLink, *aliases: str) -> dict[str, Collection]:
    """What stands behind each of these aliases that are there. Raises ``MemoryStoreError``."""
    link.check()
    known = link.ask("reading its aliases", lambda client: client.get_aliases().aliases)
    return {a.alias_name: described(link, a.collection_name) for a in known if a.alias_name in aliases}


def point(link: ServerLink, wanted: Mapping[str, str | None]) -> None:
    """Let each alias stand for a collection, or be gone, all in one step: nobody sees some of it."""
    aliases = link.ask("reading its aliases", lambda client: client.get_aliases().aliases)
    known = {alias.alias_name for alias in aliases}
    changes: list[models.AliasOperations] = [
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        for alias in wanted
        if alias in known
    ]
    changes += [
        models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
        for alias, name in wanted.items()
        if name is not None
    ]
    link.ask(
        f"renaming {', '.join(wanted)}",
        lambda client: client.update_collection_aliases(changes),
    )


def remove(link: ServerLink, name: str) -> None:
    """Remove a collection, its aliases with it."""
    link.ask(f"removing the collection {name}", lambda client: client.delete_collection(name))
