"""An object store that checks who asks."""

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import value, wait_for
from testinfra.host import Host

LISTENING = ("127.0.0.1:6200", "127.0.0.1:6201", "127.0.0.1:6202", "127.0.0.1:11211", "0.0.0.0:8090")
ANYONE = {"aws_access_key_id": "lvao:airflow", "region_name": "fr-par"}


@pytest.fixture(scope="module")
def secret(host: Host) -> str:
    return value(host, "object_storage_secret_key")


def client(host: Host, **options: str) -> BaseClient:
    """Make a client that asks from outside the host."""
    address = host.check_output("hostname --ip-address")
    patient = Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=20)
    return boto3.client("s3", endpoint_url=f"http://{address}:8090", config=patient, **ANYONE | options)


def test_it_keeps_what_it_is_given_over_a_reboot_of_its_services(host: Host, secret: str) -> None:
    storage = client(host, aws_secret_access_key=secret)
    storage.create_bucket(Bucket="shelf")
    storage.put_object(Bucket="shelf", Key="a/b=c d.log", Body=b"kept")
    host.check_output("systemctl restart swift-proxy swift-object swift-container swift-account memcached")
    sockets = [host.socket(f"tcp://{address}") for address in LISTENING]
    wait_for(lambda: all(socket.is_listening for socket in sockets), 30, "the store")
    assert storage.get_object(Bucket="shelf", Key="a/b=c d.log")["Body"].read() == b"kept"
    assert [found["Key"] for found in storage.list_objects_v2(Bucket="shelf", Prefix="a/")["Contents"]] == [
        "a/b=c d.log"
    ]
    storage.delete_object(Bucket="shelf", Key="a/b=c d.log")
    storage.delete_bucket(Bucket="shelf")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"aws_secret_access_key": "not-the-secret-key"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "lvao:nobody"}, "SignatureDoesNotMatch"),
        ({"region_name": "nl-ams"}, "AuthorizationHeaderMalformed"),
    ],
)
def test_it_refuses_who_has_not_the_key(host: Host, secret: str, options: dict[str, str], code: str) -> None:
    with pytest.raises(ClientError, match=code) as refused:
        client(host, **{"aws_secret_access_key": secret} | options).list_buckets()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in {400, 403}


def test_a_bucket_that_is_not_there_is_named(host: Host, secret: str) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client(host, aws_secret_access_key=secret).put_object(Bucket="nowhere", Key="a", Body=b"")


def test_it_starts_at_boot(host: Host) -> None:
    for unit in ("memcached", "swift-account", "swift-container", "swift-object", "swift-proxy"):
        assert host.service(unit).is_enabled


def test_the_key_is_readable_by_root_and_the_store_alone(host: Host) -> None:
    assert host.file("/etc/swift/proxy-server.conf").mode == 0o640
