"""Text at a URL is read as text in a folder is; a server on loopback stands for all that fsspec reaches."""

import asyncio
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from bench.runs import finish, losses, start
from shards.errors import ShardError
from shards.foreign import Listing
from shards.manifest import is_corpus
from trainer.pretrain import pretrain


@contextmanager
def served(folder, *, index=True):
    """The URL of `folder` at a server with ranges, and pages that list what lies there unless not `index`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    app = web.Application()
    app.router.add_static("/", folder, show_index=index)
    runner = web.AppRunner(app)

    async def begin():
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    try:
        yield f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(begin(), loop).result()}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """`corpus`, and Parquet with a text column and nothing else in `other`."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(corpus, folder / "corpus")
    (folder / "other").mkdir()
    for name in ("a", "b"):
        pq.write_table(
            pa.table({"text": [f"{name} {number} " * 9 for number in range(90)]}),
            folder / "other" / f"{name}.parquet",
        )
    return folder


@pytest.mark.long
def test_two_ranks_train_on_a_url_as_on_a_folder(tiny, folder, tmp_path):
    with served(folder) as url:
        for place, out in ((url, "there"), (folder, "here")):
            config = tiny(steps=4, shards=f"{place}/corpus", mix=(f"{place}/other=0.3",), out=tmp_path / out)
            finish(start(config, size=2))
    assert losses(tmp_path / "there") == losses(tmp_path / "here")


def test_a_run_whose_server_is_gone_ends_with_one_line(tiny, folder):
    with served(folder) as url:
        pass
    process = start(tiny(shards=f"{url}/corpus"))
    _, said = process.communicate()
    assert process.returncode == 2
    assert said.startswith(f"error: {url}/corpus cannot be reached (Cannot connect to host 127.0.0.1:")
    assert said.count("\n") == 1


def test_a_server_that_is_gone_is_never_taken_for_one_without_a_manifest(tiny, folder):
    with served(folder) as url:
        config = tiny(shards=f"{url}/corpus", steps=2, checkpoint_every=1)
        pretrain(config)
        assert not is_corpus(f"{url}/other")
    (config.out / "evaluation.json").unlink()
    for text in (f"{url}/corpus", f"{url}/other", f"{url}/other/a.parquet"):
        with pytest.raises(ShardError, match=f"{url}/.* cannot be reached"):
            pretrain(tiny(shards=text, steps=2, checkpoint_every=1))


def test_by_http_a_folder_is_what_its_index_page_lists(folder):
    with served(folder) as url:
        assert Listing.of(f"{url}/other") == Listing.of(folder / "other")
        for name in (
            "train.parquet/part-0.parquet",
            "train.parquet/._part-0.parquet",
            "_d/x.parquet",
            "a/b=1/x.parquet",
        ):
            (folder / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "other" / "a.parquet", folder / "odd" / name)
        for place in ("odd", "odd/", "odd/train.parquet", "odd/train.parquet/", "odd/_d/x.parquet"):
            assert Listing.of(f"{url}/{place}") == Listing.of(f"{folder}/{place}")
        listed = [file.name for file in Listing.of(f"{url}/odd").files]
        assert listed == ["a/b=1/x.parquet", "train.parquet/part-0.parquet"]
        with pytest.raises(ShardError, match=r"no manifest\.json here, so no corpus, and no other Parquet"):
            Listing.of(f"{url}/nothing")
    with served(folder, index=False) as url:
        assert is_corpus(f"{url}/corpus")
        assert [file.name for file in Listing.of(f"{url}/other/b.parquet").files] == ["b.parquet"]
        with pytest.raises(ShardError, match=rf"{url}/other cannot be reached \(403, message='Forbidden'"):
            Listing.of(f"{url}/other")


def test_a_server_that_sends_no_part_of_a_file_is_refused(folder):
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(
                ShardError, match=r"cannot be read as Parquet \(The HTTP server doesn't appear"
            ):
                Listing.of(f"http://127.0.0.1:{server.server_port}/other")
        finally:
            server.shutdown()
            thread.join()
