"""Make a key for each description, and hostile texts beside; print the descriptions by key as JSON. Argument: JSON."""

import json
import sys

from hsmkms import Kms
from hsmkms.model.aliases import CreateAliasRequest
from hsmkms.model.keys import CreateKeyRequest
from hsmkms.model.policies import GetKeyPolicyRequest, PutKeyPolicyRequest
from hsmkms.model.shapes import Tag
from hsmkms.model.tags import TagResourceRequest

with Kms.open() as kms:
    made = {
        kms.create_key(CreateKeyRequest(description=text)).key_metadata.key_id: text for text in json.loads(sys.argv[1])
    }
    first = next(iter(made))
    policy = json.loads(kms.get_key_policy(GetKeyPolicyRequest(key_id=first)).policy)
    policy["Id"] = "</pre><script>alert(2)</script>"
    kms.put_key_policy(PutKeyPolicyRequest(key_id=first, policy=json.dumps(policy)))
    kms.tag_resource(TagResourceRequest(key_id=first, tags=[Tag(tag_key="+a=b", tag_value="=@x")]))
    kms.create_alias(CreateAliasRequest(alias_name="alias/-1/2", target_key_id=first))
    kms.operator.credentials.create_user("=alice@here")
    identities = kms.operator.identities
    identities.tag_user("=alice@here", [("=team", "@SUM(1)")])
    identities.create_group("+staff")
    identities.add_user_to_group("+staff", "=alice@here")
    deny = {"Sid": "x", "Effect": "Deny", "Action": "kms:Sign", "Resource": "*"}
    condition = {"StringEquals": {"aws:PrincipalTag/=team": "<img src=x onerror=alert(3)>"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny | {"Condition": condition}]})
    identities.put_user_policy("=alice@here", "=p", document)
    identities.put_group_policy("+staff", "@p", document)
json.dump(made, sys.stdout)
