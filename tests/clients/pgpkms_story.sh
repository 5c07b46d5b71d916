#!/usr/bin/env bash
# pgpkms: exports an RSA key for OpenPGP and signs a file; gpg verifies it.
set -euo pipefail

export GNUPGHOME=$PWD/gnupg
mkdir -m 700 "$GNUPGHOME"
printf 'attack at dawn\n' >plain.txt
# Its user comes from tags of the key, and version 1.0.7 takes the key of this alias, whatever --key says.
python - <<'PYTHON'
import os

import botocore.session

kms = botocore.session.get_session().create_client("kms")
tags = {"PGPName": "Story", "PGPEmail": "story@example.com"}
kms.create_alias(AliasName="alias/PGP_KEY", TargetKeyId=os.environ["KEY_ID"])
kms.tag_resource(KeyId=os.environ["KEY_ID"], Tags=[{"TagKey": k, "TagValue": v} for k, v in tags.items()])
PYTHON
python -m pgpkms export --key alias/PGP_KEY --output public.asc
python -m pgpkms sign --key alias/PGP_KEY --input plain.txt --output plain.txt.asc
gpg --quiet --import public.asc
gpg --quiet --verify plain.txt.asc plain.txt
printf 'x' >>plain.txt
if gpg --quiet --verify plain.txt.asc plain.txt; then exit 1; fi
echo "the story holds"
