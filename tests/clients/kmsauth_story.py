"""kmsauth: a token of one service for another, taken once and refused for a third. Prints one line."""

import os

from kmsauth import KMSTokenGenerator, KMSTokenValidator, TokenValidationError

region, alias = os.environ["AWS_REGION"], os.environ["KEY_ALIAS"]
context = {"from": "caller", "to": "callee", "user_type": "service"}
maker = KMSTokenGenerator(auth_key=alias, auth_context=context, region=region)
username, token = maker.get_username(), maker.get_token()
checker = KMSTokenValidator(auth_key=alias, user_auth_key=alias, to_auth_context="callee", region=region)
payload = checker.decrypt_token(username, token.decode() if isinstance(token, bytes) else token)["payload"]
assert payload["not_before"] < payload["not_after"]
other = KMSTokenValidator(auth_key=alias, user_auth_key=alias, to_auth_context="third", region=region)
try:
    other.decrypt_token(username, token)
except TokenValidationError:
    print("the story holds")
