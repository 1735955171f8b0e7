"""Validates an RO-Crate with rocrate-validator without the network. usage: crate.py FOLDER PROFILE

The JSON-LD context of RO-Crate comes from the package `rocrate` instead of w3id.org; all else is the validator's own.
"""
import email.message, io, pathlib, sys, urllib.request, urllib.response

import requests, rocrate, urllib3
from rocrate_validator import models, services

CONTEXT = (pathlib.Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_bytes()
ADDRESS = "https://w3id.org/ro/crate/1.1/context"
open_url, send = urllib.request.OpenerDirector.open, requests.adapters.HTTPAdapter.send


def opened(self, request, *arguments, **named):
    url = request if isinstance(request, str) else request.full_url
    if url != ADDRESS:
        return open_url(self, request, *arguments, **named)
    headers = email.message.Message()
    headers["content-type"] = "application/ld+json"
    return urllib.response.addinfourl(io.BytesIO(CONTEXT), headers, url, 200)


def sent(self, request, *arguments, **named):
    if request.url != ADDRESS:
        return send(self, request, *arguments, **named)
    response = requests.Response()
    response.status_code, response.url, response.request = 200, request.url, request
    response.headers["content-type"] = "application/ld+json"
    response.raw = urllib3.HTTPResponse(
        body=io.BytesIO(CONTEXT), headers=response.headers, status=200, preload_content=False, request_url=request.url
    )
    return response


urllib.request.OpenerDirector.open, requests.adapters.HTTPAdapter.send = opened, sent
settings = services.ValidationSettings(
    rocrate_uri=pathlib.Path(sys.argv[1]),
    profile_identifier=sys.argv[2],
    requirement_severity=models.Severity.REQUIRED,
)
result = services.validate(settings)
for issue in result.get_issues():
    print(issue.severity, issue.check.identifier, issue.message)
print(f"{sys.argv[1]}: {sys.argv[2]} {'passed' if result.passed() else 'failed'}")
sys.exit(not result.passed())
