"""What needs boto3 for the buckets of projects: an entry point, loaded when the first bucket is used."""

from typing import Final

from modelshare.server.storage.bucket import S3Options
from modelshare.server.storage.bucket_check import BucketCheck
from modelshare.server.storage.in_place import DirectInPlaceStore, RelayedInPlaceStore
from modelshare.server.storage.own_bucket import Keys, OwnBucket, Role
from modelshare.server.storage.relayed import RelayedStore
from modelshare.server.storage.s3 import S3Store


class Buckets:
    """The classes, by their names."""

    options: Final = S3Options
    own: Final = OwnBucket
    keys: Final = Keys
    role: Final = Role
    direct: Final = S3Store
    relayed: Final = RelayedStore
    direct_in_place: Final = DirectInPlaceStore
    relayed_in_place: Final = RelayedInPlaceStore
    check: Final = BucketCheck
