"""Prove that Airflow can keep its logs in a bucket: write, list, read and delete a probe there.

Reads a JSON object from standard input, so that no secret shows in a process list:

- `client`: arguments of boto3's client (`endpoint_url`, `region_name`, keys);
- `config`: options of botocore's Config;
- `bucket`, and `key`, with which the name of the probe begins: a plan and a deploy may ask at a time;
- `variables`: how the names of the variables with keys and bucket begin, for errors;
- `create`: whether to create a bucket that is missing.

Prints `created` if it created the bucket. Where the storage refuses something, ends with status 1 and a sentence on
standard error.
"""

import json
import secrets
import sys
from contextlib import suppress

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

CONTENT = b"written by lvao-airflow"

question = json.load(sys.stdin)
variables = question["variables"]
keys = f"{variables}_access_key, {variables}_secret_key or airflow_logging_region is wrong"
hints = {
    "SignatureDoesNotMatch": keys,
    "InvalidAccessKeyId": keys,
    "AccessDenied": f"{variables}_access_key may not do so: it must be allowed to write, list, read and delete",
    "NoSuchBucket": f"{variables}_bucket_url names no bucket: create it, or set airflow_logging_bucket_create",
}
bucket, key = question["bucket"], f"{question['key']}-{secrets.token_hex(8)}"
retries = {"retries": {"max_attempts": 2}, "connect_timeout": 10, "read_timeout": 20}
storage = boto3.client("s3", **question["client"], config=Config(**(retries | question["config"])))
step = "write"


def write() -> None:
    """Write the probe."""
    storage.put_object(Bucket=bucket, Key=key, Body=CONTENT)


try:
    try:
        write()
    except storage.exceptions.NoSuchBucket:
        if not question["create"]:
            raise
        # Another host of the environment may be as fast.
        with suppress(storage.exceptions.BucketAlreadyOwnedByYou):
            storage.create_bucket(Bucket=bucket)
            print("created")
        write()
    step = "list"
    storage.list_objects_v2(Bucket=bucket, Prefix=key)
    step = "read"
    if storage.get_object(Bucket=bucket, Key=key)["Body"].read() != CONTENT:
        sys.exit(f"Cannot read from the bucket {bucket}: what comes back is not what was written.")
    step = "delete"
    storage.delete_object(Bucket=bucket, Key=key)
except ClientError as error:
    code = error.response["Error"]["Code"]
    sys.exit(f"Cannot {step} in the bucket {bucket}: {code}: {hints.get(code, error)}.")
except BotoCoreError as error:
    sys.exit(f"Cannot {step} in the bucket {bucket}: {error}: look at airflow_logging_endpoint_url.")
