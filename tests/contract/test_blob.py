# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

from collections.abc import AsyncGenerator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from nats.js import JetStreamContext

from mesh.blob.file import FileBlobs
from mesh.blob.inproc import InprocBlobs
from mesh.blob.jetstream import JetStreamBlobs, jetstream_blobs
from mesh.blob.port import BlobStore
from mesh.clock import SystemIds
from mesh.core.payload import PAYLOAD_LIMIT, Blob
from mesh.errors import HistoryCorrupt, PayloadTooLarge, StreamDrifted, Unavailable
from mesh.testing.broker import Broker, open_broker, open_cluster
from tests.contract.nats_client import connected

MIB = 1024 * 1024
SMALL = b"the same bytes"
LARGE = bytes(range(256)) * (2 * 4096 + 1)  # 2 MiB and a bit: several chunks, the last one short
STREAM = "OBJ_mesh-t-blobs"


class BlobContract:
    """Behaviour of any `BlobStore`; the subclass provides a `blobs` fixture."""

    @pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE], ids=["none", "one", "few", "many"])
    async def test_what_was_put_is_read(self, blobs: BlobStore, data: bytes) -> None:
        blob = await blobs.put(data)
        assert await blobs.open(blob) == data

    async def test_the_claim_check_names_the_content(self, blobs: BlobStore) -> None:
        digest = sha256(SMALL).hexdigest()
        assert await blobs.put(SMALL) == Blob(uri=f"blob:{digest}", sha256=digest, size=len(SMALL))

    async def test_putting_again_changes_nothing(self, blobs: BlobStore) -> None:
        assert await blobs.put(LARGE) == await blobs.put(LARGE)
        assert await blobs.open(await blobs.put(LARGE)) == LARGE

    async def test_many_may_put_the_same_bytes_at_once(self, blobs: BlobStore) -> None:
        read: list[bytes] = []

        async def put_and_read() -> None:
            read.append(await blobs.open(await blobs.put(LARGE)))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(put_and_read)
        assert read == [LARGE] * 8

    async def test_the_largest_payload_fits(self, blobs: BlobStore) -> None:
        data = bytes(PAYLOAD_LIMIT)
        assert await blobs.open(await blobs.put(data)) == data

    async def test_a_larger_one_is_refused(self, blobs: BlobStore) -> None:
        with pytest.raises(PayloadTooLarge, match=f"{PAYLOAD_LIMIT + 1} bytes"):
            await blobs.put(bytes(PAYLOAD_LIMIT + 1))

    async def test_bytes_never_put_are_gone(self, blobs: BlobStore) -> None:
        with pytest.raises(HistoryCorrupt, match="gone"):
            await blobs.open(await InprocBlobs().put(SMALL))

    async def test_a_claim_of_another_size_is_corrupt(self, blobs: BlobStore) -> None:
        blob = await blobs.put(SMALL)
        with pytest.raises(HistoryCorrupt, match="expected 3"):
            await blobs.open(replace(blob, size=3))

    @pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "", "a.*.>"])
    async def test_a_forged_claim_never_reaches_the_store(
        self, blobs: BlobStore, name: str
    ) -> None:
        with pytest.raises(HistoryCorrupt, match="no claim check"):
            await blobs.open(Blob(uri=f"blob:{name}", sha256=name, size=1))


class TestInproc(BlobContract):
    @pytest.fixture
    def blobs(self) -> BlobStore:
        return InprocBlobs()


class TestFile(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return FileBlobs(tmp_path / "blobs")

    async def test_another_process_reads_it(self, tmp_path: Path) -> None:
        blob = await FileBlobs(tmp_path).put(LARGE)
        assert await FileBlobs(tmp_path).open(blob) == LARGE

    async def test_a_flipped_bit_is_found(self, tmp_path: Path) -> None:
        blobs = FileBlobs(tmp_path)
        blob = await blobs.put(SMALL)
        path = tmp_path / blob.sha256[:2] / blob.sha256
        path.write_bytes(b"tHe same bytes")
        with pytest.raises(HistoryCorrupt, match="has sha256"):
            await blobs.open(blob)

    async def test_what_a_crash_left_does_not_count(self, tmp_path: Path) -> None:
        blobs = FileBlobs(tmp_path)
        blob = await InprocBlobs().put(LARGE)
        folder = tmp_path / blob.sha256[:2]
        folder.mkdir()
        (folder / f"{blob.sha256}x1.part").write_bytes(LARGE[:1000])
        with pytest.raises(HistoryCorrupt, match="gone"):
            await blobs.open(blob)
        await blobs.put(LARGE)
        assert await blobs.open(blob) == LARGE

    async def test_a_folder_that_cannot_be_written_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").write_text("a file, not a folder")
        with pytest.raises(Unavailable):
            await FileBlobs(tmp_path / "blobs").put(SMALL)


@pytest.mark.live
class TestJetStream(BlobContract):
    @pytest.fixture
    async def server(self, tmp_path: Path) -> AsyncGenerator[Broker]:
        async with open_broker(tmp_path) as server:
            yield server

    @pytest.fixture
    async def js(self, server: Broker) -> AsyncGenerator[JetStreamContext]:
        async with connected(server.url) as client:
            yield client.jetstream(timeout=1)

    @pytest.fixture
    async def blobs(self, js: JetStreamContext) -> JetStreamBlobs:
        return await jetstream_blobs(js, tenant="t", ids=SystemIds())

    async def test_the_same_bytes_are_stored_once(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(blobs.put, LARGE)
        await blobs.put(LARGE)
        assert (await js.stream_info(STREAM)).state.messages == 17 + 1  # chunks, description

    async def test_half_a_put_does_not_count(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(blobs.put, bytes(PAYLOAD_LIMIT))
            while (await js.stream_info(STREAM)).state.messages < 3:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        blob = await InprocBlobs().put(bytes(PAYLOAD_LIMIT))
        with pytest.raises(HistoryCorrupt, match="gone"):
            await blobs.open(blob)
        assert await blobs.open(await blobs.put(bytes(PAYLOAD_LIMIT))) == bytes(PAYLOAD_LIMIT)

    async def test_a_lost_chunk_is_found(self, blobs: JetStreamBlobs, js: JetStreamContext) -> None:
        blob = await blobs.put(LARGE)
        await js.delete_msg(STREAM, 3)
        with pytest.raises(HistoryCorrupt, match="16 of 17 chunks"):
            await blobs.open(blob)

    async def test_other_bytes_under_the_name_are_found(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        bucket = await js.object_store("mesh-t-blobs")
        blob = await blobs.put(SMALL)
        await bucket.put(blob.sha256, SMALL[::-1])
        with pytest.raises(HistoryCorrupt, match="has sha256"):
            await blobs.open(blob)

    async def test_the_object_stores_own_tools_read_it(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        blob = await blobs.put(LARGE)
        bucket = await js.object_store("mesh-t-blobs")
        assert (await bucket.get(blob.sha256)).data == LARGE

    async def test_one_that_was_deleted_by_hand_can_be_put_again(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        blob = await blobs.put(LARGE)
        await (await js.object_store("mesh-t-blobs")).delete(blob.sha256)
        with pytest.raises(HistoryCorrupt, match="gone"):
            await blobs.open(blob)
        await blobs.put(LARGE)
        assert await blobs.open(blob) == LARGE

    async def test_it_survives_a_killed_broker(self, blobs: JetStreamBlobs, server: Broker) -> None:
        blob = await blobs.put(LARGE)
        await server.kill()
        with pytest.raises(Unavailable):
            await blobs.open(blob)
        with pytest.raises(Unavailable):
            await blobs.put(SMALL)
        await server.restart()
        with anyio.fail_after(10):
            assert await _until_there(blobs, blob) == LARGE

    async def test_three_nodes_keep_it_and_two_of_them_still_give_it(self, tmp_path: Path) -> None:
        async with open_cluster(tmp_path) as cluster, connected(cluster.url) as client:
            js = client.jetstream(timeout=2)
            blobs = await jetstream_blobs(js, tenant="t", ids=SystemIds(), replicas=3)
            for n in range(20):  # read at once: a replica may lag
                data = b"%d" % n + LARGE
                assert await blobs.open(await blobs.put(data)) == data
            blob = await blobs.put(LARGE)
            await cluster.brokers[0].kill()
            with anyio.fail_after(30):
                assert await _until_there(blobs, blob) == LARGE

    async def test_a_bucket_with_other_settings_is_reported(
        self, blobs: JetStreamBlobs, js: JetStreamContext
    ) -> None:
        info = await js.stream_info(STREAM)
        info.config.max_bytes = MIB
        await js.update_stream(info.config)
        with pytest.raises(StreamDrifted, match="mesh-t-blobs"):
            await jetstream_blobs(js, tenant="t", ids=SystemIds())


async def _until_there(blobs: BlobStore, blob: Blob) -> bytes:
    while True:
        try:
            return await blobs.open(blob)
        except Unavailable:
            await anyio.lowlevel.checkpoint()
