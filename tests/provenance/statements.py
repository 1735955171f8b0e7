"""Checks in-toto statements and their signatures. usage: statements.py FILE [PUBLIC_KEY]"""
import base64, json, sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement, statement_pb2

TYPE = "application/vnd.in-toto+json"
key = serialization.load_pem_public_key(open(sys.argv[2], "rb").read()) if len(sys.argv) > 2 else None
made, used = set(), set()
for line in open(sys.argv[1], encoding="utf-8"):
    value = json.loads(line)
    if key:
        payload = base64.b64decode(value["payload"])
        assert value["payloadType"] == TYPE
        signed = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
        key.verify(base64.b64decode(value["signatures"][0]["sig"]), signed, ec.ECDSA(hashes.SHA256()))
        value = json.loads(payload)
    parsed = json_format.ParseDict(value, statement_pb2.Statement())
    statement.Statement.copy_from_pb(parsed).validate()
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    json_format.ParseDict(value["predicate"], provenance_pb2.Provenance())
    definition = value["predicate"]["buildDefinition"]
    assert definition["buildType"] and value["predicate"]["runDetails"]["builder"]["id"]
    made.add(value["predicate"]["runDetails"]["metadata"]["invocationId"])
    used |= {found["uri"].split("#")[0] for found in definition["resolvedDependencies"]}
missing = {uri for uri in used if uri.startswith("urn:ashlar:artifact:")} - made
assert made and not missing, f"no statement about {missing}"
print(f"{sys.argv[1]}: {len(made)} statements, {'signed' if key else 'not signed'}")
