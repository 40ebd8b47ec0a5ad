"""Workers that die, are slow, or are of another version: who does their work. No Ray here: a team that is played."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import draw_folders

from headstart.data import sources
from headstart.errors import ConfigError, HeadstartError, MissingExtraError, StorageError
from headstart.inspection import files
from headstart.packed import Digests
from headstart.records import Dataset, Locator, Preprocess, Sample, silence
from headstart.scale import address, crew, filling, hand, screening
from headstart.scale import cluster as clusters
from headstart.scale.cluster import Cluster, Died, Place
from headstart.scale.crew import Crew
from headstart.scale.hand import Answer, Block, Done, Station

RECIPE = {"the version of pillow": "12.3.0"}
Said = Callable[[str, Block, bool], Any]


class Player:
    """A worker of the played team; its answer is there at once."""

    def __init__(self, place: Place, said: Said) -> None:
        self.place, self.said, self.answer = place, said, None

    def ask(self, question: str, *arguments: Any) -> None:
        if question == "ping":
            self.answer = f"node {self.place.name}"
        elif question == "begin":
            self.answer = arguments[0]
        else:
            self.answer = self.said(self.place.name, *arguments)


class Team:
    """A team whose workers say what a function says of place, block and whether to be careful."""

    def __init__(self, said: Said, places: int = 2, recipe: Any = RECIPE, free: float = 2) -> None:
        self.said, self.recipe, self._free = said, recipe, free
        self.there = [Place(str(number), "", 1) for number in range(places)]
        self.hired: list[str] = []

    def total(self) -> float:
        return 2

    def free(self) -> float:
        return self._free

    def places(self) -> list[Place]:
        return self.there

    def hire(self, place: Place) -> Any:
        self.hired.append(place.name)
        return Player(place, self.said)

    def dismiss(self, worker: Any) -> None:
        worker.answer = None

    def shared(self, job: Any) -> Any:
        return self.recipe

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        for worker in [one for one in workers if one.answer is not None]:
            answer, worker.answer = worker.answer, None
            yield worker, answer


def fine(place: str, block: Block, careful: bool) -> Answer:
    return Answer(block.number, careful, {}, (), ())


def blocks(count: int) -> Iterator[Block]:
    for number in range(count):
        yield Block(number, Dataset(Path(), (Sample(Path("/a.png"), f"{number}.png"),)))


def worked(team: Team, count: int = 9, *, in_order: bool = False) -> list[Answer]:
    return list(Crew(team, None, RECIPE, silence).work(blocks(count), in_order=in_order))  # type: ignore[arg-type]


@pytest.mark.parametrize("in_order", [False, True])
def test_every_block_is_answered_once(in_order: bool):
    numbers = [one.number for one in worked(Team(fine), in_order=in_order)]
    assert sorted(numbers) == list(range(9))
    assert not in_order or numbers == sorted(numbers)


def test_G3_a_block_that_kills_is_looked_at_carefully_at_the_third_try():
    tries = []

    def said(place: str, block: Block, careful: bool) -> Any:
        if block.number == 4:
            tries.append(careful)
            if not careful:
                return Died("killed")
        return fine(place, block, careful)

    answers = {one.number: one.value for one in worked(Team(said), in_order=True)}
    assert answers == {number: number == 4 for number in range(9)}
    assert tries == [False, False, True]


def test_G3_a_block_that_kills_in_spite_of_all_care_ends_in_an_error_that_names_it():
    with pytest.raises(HeadstartError, match=r"5 workers died of the same 1 pictures, 4.png to 4.png.*out of memory"):
        worked(
            Team(
                lambda place, block, careful: (
                    Died("out of memory") if block.number == 4 else fine(place, block, careful)
                )
            )
        )


def test_G1_a_machine_that_went_is_done_without():
    team = Team(fine)

    def said(place: str, block: Block, careful: bool) -> Any:
        if place == "1":
            team.there = team.there[:1]
            return Died("the node has gone")
        return fine(place, block, careful)

    team.said = said
    assert len(worked(team)) == 9
    assert team.hired.count("1") == 1


def test_G1_a_machine_that_comes_later_gets_a_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew, "REVIEW", -1)
    team = Team(fine, places=1)

    def said(place: str, block: Block, careful: bool) -> Any:
        team.there = [Place("0", "", 1), Place("new", "", 1)]
        return fine(place, block, careful)

    team.said = said
    assert len(worked(team)) == 9
    assert team.hired == ["0", "new"]


def test_G4_a_worker_of_another_version_is_refused_with_both_versions():
    with pytest.raises(ConfigError, match=r"node [01].*version of pillow is 11.0.0 there and 12.3.0 here"):
        worked(Team(fine, recipe={"the version of pillow": "11.0.0"}))


def test_workers_that_die_before_they_can_work_are_not_begun_for_ever():
    team = Team(fine, recipe=Died("No module named 'headstart'"))
    with pytest.raises(HeadstartError, match="No worker of the cluster could begin.*No module named 'headstart'"):
        worked(team)
    assert len(team.hired) <= 2 * crew.MOST_BEGINS


def test_a_cluster_whose_machines_have_all_gone_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew, "LONGEST", 2)
    team = Team(fine)

    def said(place: str, block: Block, careful: bool) -> Any:
        team.there = []
        return Died("the node has gone")

    team.said = said
    with pytest.raises(HeadstartError, match="no worker could work. The last one that ended said: the node has gone"):
        worked(team)


def test_a_cluster_without_a_free_processor_is_refused_soon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew, "PATIENCE", 0)
    with pytest.raises(ConfigError, match="0 of the cluster's 2 processors are free"):
        worked(Team(fine, free=0))


def test_pictures_that_a_worker_does_not_see_end_the_work(tmp_path: Path):
    here, nowhere = tmp_path / "a.png", tmp_path / "b.png"
    here.touch()
    blind = Team(lambda place, block, careful: Answer(block.number, None, {}, (nowhere, here), ()))
    with pytest.raises(StorageError, match=r"cannot read .*a\.png, which this machine can"):
        worked(blind)
    assert len(worked(Team(lambda place, block, careful: Answer(block.number, None, {}, (nowhere,), ())))) == 9


@pytest.mark.parametrize(
    ("place", "file"),
    [
        (Path("/x/a.png"), Path("/x/a.png")),
        (Locator("/x/a.tar", "1.png", "member", 0, 9), Path("/x/a.tar")),
        (Locator("s3://b/a.tar", "1.png", "member", 0, 9), None),
        (Locator("s3://b", "a.png"), None),
    ],
)
def test_what_a_worker_must_be_able_to_read_is_the_file(place: Any, file: Path | None):
    assert hand.file_of(place) == file


class Reads:
    """The work of a worker that can read nothing of a block."""

    preprocesses, recipe = (), RECIPE

    def begin(self) -> Reads:
        return self

    def do(self, block: Block, deadly: Any) -> Done:
        return Done(None, list(range(len(block.dataset))))


def test_a_tar_that_is_not_where_the_worker_is_counts_as_unseen(tmp_path: Path):
    tar = tmp_path / "a.tar"
    places = [Locator(str(tar), f"{row}.png", "member", 512 * row, 9) for row in range(3)]
    block = Block(0, Dataset(tmp_path, tuple(Sample(one, one.inner) for one in places)))
    station = Station()
    station.begin(Reads())
    assert station.do(block, False).unseen == (tar,)
    tar.touch()
    assert station.do(block, False).unseen == ()


def test_files_that_a_worker_failed_to_read_are_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = sources.read(draw_folders(tmp_path / "photos", each=2))
    expected, _ = files.fingerprints(dataset)

    class Half:
        """A crew that cannot read every other file."""

        def work(self, blocks: Iterable[Block]) -> Iterator[Answer]:
            for block in blocks:
                found, lost = files.fingerprints(block.dataset)
                failed = lost | dict.fromkeys(range(0, len(found), 2), "cannot be read: Input/output error")
                told = Digests.of("" if row in failed else digest for row, digest in enumerate(found))
                yield Answer(block.number, (told, failed), {}, (), ())

    monkeypatch.setattr(filling, "MANY", 1)
    monkeypatch.setattr(filling.crews, "gathered", lambda *_: nullcontext(Half()))
    monkeypatch.setattr(filling.Filling, "opened", lambda *_: None)
    with filling.Filling("10.0.0.1:6379", tmp_path / "cache") as fill_it:
        digests, failures = fill_it.fingerprints(dataset, cache=tmp_path / "cache")
        assert failures == {}
        assert list(digests) == list(expected)
        dataset[3].path.unlink()
        _, failures = fill_it.fingerprints(dataset)
        assert list(failures) == [3]


def test_what_workers_warn_of_is_told_once():
    with pytest.warns(UserWarning, match="mind the gap") as told:
        worked(Team(lambda place, block, careful: Answer(block.number, None, {}, (), ("mind the gap",))))
    assert len(told) == 1


def test_where_ray_is_not_installed_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="A cluster needs an optional part") as told:
        Cluster(address.parse("local:1"))
    assert told.value.hint == "pip install 'headstart[ray]'"


@pytest.mark.parametrize(
    "text", ["", "local", "local:0", "local:-1", "local:999", "here", "ray://10.0.0.1:10001", "a b:1"]
)
def test_what_is_no_cluster_is_refused(text: str):
    with pytest.raises(ConfigError, match="--cluster is"):
        address.parse(text)


def test_G3_pictures_that_kill_whoever_decodes_them_are_found_each_by_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screening, "_decode", _dies_of_every_fourth)
    found = screening.deadly([Path(f"{number}.png") for number in range(10)], [])
    assert found == dict.fromkeys((3, 7), "decoding it ends its process: signal 9, Killed")


def _dies_of_every_fourth(pipe: Any, paths: list[Path], _: tuple[Preprocess, ...]) -> None:
    for place, path in enumerate(paths):
        pipe.send(place)
        if int(path.stem) % 4 == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    pipe.send(None)


def _dies_at_once(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_cannot_begin_is_no_picture_s_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screening, "_decode", _dies_at_once)
    with pytest.raises(HeadstartError, match="none could be tried: to begin ends its process: signal 9"):
        screening.deadly([Path("a.png"), Path("b.png")], [])


def test_a_machine_whose_processors_are_not_to_be_used_has_no_place():
    cluster = object.__new__(Cluster)
    nodes = [
        {"NodeID": "head", "Resources": {"GPU": 1.0}, "Alive": True, "NodeManagerAddress": "10.0.0.1"},
        {"NodeID": "node", "Resources": {"CPU": 8.0, "GPU": 2.0}, "Alive": True, "NodeManagerAddress": "10.0.0.2"},
        {"NodeID": "gone", "Resources": {"CPU": 8.0, "GPU": 2.0}, "Alive": False, "NodeManagerAddress": "10.0.0.3"},
    ]
    cluster.address, cluster._shared = address.parse("auto"), False
    cluster._ray = SimpleNamespace(nodes=lambda: nodes)
    for graphics, names in ((True, ["node.0", "node.1"]), (False, ["node.0"])):
        cluster.graphics = graphics
        assert [(place.name, place.processors) for place in cluster.places()] == [
            (name, 8 // len(names)) for name in names
        ]


def test_sockets_lie_where_their_names_have_room(tmp_path: Path):
    assert clusters._short(Path("/var/tmp")) == Path("/var/tmp")
    assert clusters._short(Path("/scratch/slurm/job-123456/tmp")) == Path("/tmp")
