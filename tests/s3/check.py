"""Pushes to and pulls from an S3 server: whole copies, cuts at random moments, flipped bits. usage: check.py ARTIFACTS-PROGRAM

The server is moto's, which imitates S3 in Python: it speaks the protocol over HTTP, but is not what anyone stores data with. To
test a real server, set S3_ENDPOINT and AWS_* to it.
"""
import http.client, http.server, json, os, pathlib, random, runpy, shutil, subprocess, sys, tempfile, threading, time

import boto3, logging
from moto.server import ThreadedMotoServer

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
reader = runpy.run_path(str(pathlib.Path(__file__).parent.parent / "reader/verify.py"))
canonical, sha256, verify = reader["canonical"], reader["sha256"], reader["verify"]
random.seed(1)
logging.getLogger("werkzeug").setLevel(logging.ERROR)


def artifact(store, stage, config, files, inputs={}, provenance=b'{"schema":"provenance-v1"}'):
    """Writes an artifact and returns its manifest; `files` are below data/."""
    lines = {name: sha256(content) for name, content in sorted(files.items())}
    tree = lambda lines: "tree-v1:" + sha256("".join(f"{h}  {n}\n" for n, h in lines.items()).encode())
    material = {"schema": "key-v1", "stage": stage, "stage_version": 1, "config": config, "inputs": {}}
    for role, record in inputs.items():
        material["inputs"][role] = {"type": "tree", "sha256": record["tree"].removeprefix("tree-v1:")}
    manifest = {
        "schema": "manifest-v1", "stage": stage, "stage_version": 1, "key_material": material, "tree": tree(lines),
        "key": sha256(canonical(material).encode()),
        "recipe_key": sha256(canonical(material | {"schema": "key-v1-loose"}).encode()),
        "files": [{"path": n, "size": len(files[n]), "sha256": h, "role": n.split("/")[0]} for n, h in lines.items()],
        "outputs": {}, "inputs": inputs, "metrics": {}, "determinism": {"claim": "bit-exact", "resumed_exactly": True},
    }
    for output in {name.split("/")[0] for name in files}:
        own = {n.removeprefix(output + "/"): h for n, h in lines.items() if n.split("/")[0] == output}
        size = sum(len(c) for n, c in files.items() if n.split("/")[0] == output)
        manifest["outputs"][output] = {"tree": tree(own), "files": len(own), "bytes": size}
    folder = store / stage / f"{manifest['key'][:16]}-toy"
    for name, content in files.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(content)
    described = {
        "SHA256SUMS": "".join(f"{h}  {n}\n" for n, h in lines.items()).encode(),
        "manifest.json": canonical(manifest).encode(), "provenance.json": provenance,
    }
    for name, content in described.items():
        (folder / name).write_bytes(content)
    (folder / "COMMIT").write_text("".join(f"{sha256(content)}  {name}\n" for name, content in described.items()))
    return manifest


def run(store, *arguments, code=0):
    ran = subprocess.run([PROGRAM, "--store", store, *arguments], capture_output=True, text=True)
    assert code is None or ran.returncode == code, f"{arguments}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran


def visible(store):
    """Returns the names of the artifacts in a store, each verified by the reader."""
    folders = [path for path in store.glob("[a-z]*/*-*") if not path.name.startswith(".")]
    for folder in folders:
        verify(folder)
    return sorted(f"{folder.parent.name}/{folder.name}" for folder in folders)


class Between(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the server, after `before` was called with the method and the path."""

    before = staticmethod(lambda method, path: None)
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Between.before(self.command, self.path)
        server = http.client.HTTPConnection(os.environ["S3_ENDPOINT"].removeprefix("http://"))
        server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            server.putheader(name, value)
        server.endheaders(body)
        answer = server.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def log_message(self, *_):
        pass


server = None
if "S3_ENDPOINT" not in os.environ:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ["S3_ENDPOINT"] = "http://%s:%s" % server.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
os.environ["AWS_ENDPOINT_URL"] = os.environ["S3_ENDPOINT"]
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
client = boto3.client("s3", region_name=os.environ["AWS_REGION"])
client.create_bucket(Bucket="store")
home = pathlib.Path(tempfile.mkdtemp())
store = home / "artifacts"
large = artifact(store, "import-model", {}, {"model/weights.bin": random.randbytes(40_000_000), "model/config.json": b"{}"})
record = {"stage": "import-model", "key": large["key"], "tree": large["outputs"]["model"]["tree"], "output": "model"}
artifact(store, "train", {"rank": 8}, {"summary.json": b"{}", "adapters/a.bin": random.randbytes(3000)}, {"model": record})
names = visible(store)

began = time.time()
assert "pushed 2 artifacts" in run(store, "push", "s3://store/a/b").stdout
assert "pushed 0 artifacts (0 B); 2 already there" in run(store, "push", "s3://store/a/b").stdout
assert "pulled 2 artifacts" in run(home / "copy", "pull", "s3://store/a/b", "train/" + names[1].split("/")[1][:8]).stdout
assert visible(home / "copy") == names
assert "pushed 2 artifacts" in run(store, "push", "s3://store").stdout
print(f"copied there and back in {time.time() - began:.1f} s")

for turn in range(20):
    address, copy = f"s3://store/cut{turn}", home / f"cut{turn}"
    for store_, command in [(store, "push"), (copy, "pull")]:
        process = subprocess.Popen([PROGRAM, "--store", store_, command, address], stdout=-3, stderr=-3)
        time.sleep(random.uniform(0, 0.8))
        process.kill()
        process.wait()
        look = run(home / f"look{turn}{command}", "pull", address, code=None)  # whatever is there is whole
        assert look.returncode == 0 or "holds no artifacts" in look.stderr, look.stderr
        visible(home / f"look{turn}{command}")
        assert set(visible(copy)) <= set(names)
        run(store_, command, address)
    assert visible(copy) == names, turn
    for path in home.glob("*cut*"), home.glob("look*"):
        for folder in path:
            subprocess.run(["chmod", "-R", "u+w", folder])
            shutil.rmtree(folder)
print("20 pushes and 20 pulls were cut")

objects = [found["Key"] for found in client.list_objects_v2(Bucket="store", Prefix="a/b/")["Contents"]]
assert len(objects) == 12
for number, key in enumerate(objects):
    good = client.get_object(Bucket="store", Key=key)["Body"].read()
    bad = bytearray(good)
    bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
    client.put_object(Bucket="store", Key=key, Body=bytes(bad))
    ran = run(home / f"flip{number}", "pull", "s3://store/a/b", code=None)
    name = "/".join(key.split("/")[2:4])
    assert ran.returncode != 0 and name not in visible(home / f"flip{number}"), f"{key}: {ran.stdout}{ran.stderr}"
    client.put_object(Bucket="store", Key=key, Body=good)
print(f"a flipped bit in each of {len(objects)} objects was noticed")

# The same recipe can give other bytes of the same length, as on another backend; a push of them may have been cut off.
for case, missing in [("cut", ["COMMIT"]), ("listed", ["COMMIT", "SHA256SUMS"])]:
    other, mine = home / f"other-{case}", f"s3://store/same-{case}"
    weights = random.randbytes(40_000_000)
    assert artifact(other, "import-model", {}, {"model/weights.bin": weights, "model/config.json": b"{}"})["key"] == large["key"]
    run(other, "push", mine)
    for name in missing:
        client.delete_object(Bucket="store", Key=f"same-{case}/{names[0]}/{name}")
    assert "pushed 2 artifacts" in run(store, "push", mine).stdout
    run(home / f"same-{case}", "pull", mine)
    assert visible(home / f"same-{case}") == names
    ran = run(other, "push", mine, code=None)
    assert ran.returncode != 0 and names[0] in ran.stderr, ran.stderr
print("a cut push of other bytes leaves nothing behind")

# Two machines have made the same bytes, each with its own provenance.
content = {"model/config.json": b"{}"}
ours, theirs = home / "ours", home / "theirs"
artifact(ours, "import-model", {"id": "x"}, content)
artifact(theirs, "import-model", {"id": "x"}, content, provenance=b'{"host":"other","schema":"provenance-v1"}')
[twin] = visible(ours)
foreign = (theirs / twin / "provenance.json").read_bytes()
replace = lambda prefix: client.put_object(Bucket="store", Key=f"{prefix}/{twin}/provenance.json", Body=foreign)
for number, (pusher, expected) in enumerate([(theirs, theirs), (ours, ours)]):
    address, copy = f"s3://store/twin{number}", home / f"twin{number}"
    run(ours, "push", address)
    replace(f"twin{number}")  # the other machine did this between the last look of the first one and its COMMIT
    assert run(copy, "pull", address, code=None).returncode != 0
    assert "pushed 1 artifact " in run(pusher, "push", address).stdout
    run(copy, "pull", address)
    assert visible(copy) == [twin]
    assert (copy / twin / "provenance.json").read_bytes() == (expected / twin / "provenance.json").read_bytes()
    for store_ in ours, theirs:
        assert "1 already there" in run(store_, "push", address).stdout
between = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between)
threading.Thread(target=between.serve_forever, daemon=True).start()
for case in ["while sending", "before COMMIT"]:
    prefix, seen = "twin-" + case.split()[-1], []

    def before(method, path):
        is_moment = "list-type" in path and len(seen) > 0 if case == "while sending" else path.endswith("COMMIT")
        if method == "PUT" and path.endswith("provenance.json"):
            seen.append(path)
        if len(seen) == 1 and is_moment and (method == "PUT" or case == "while sending"):
            seen.append("now")
            replace(prefix)
            if case == "before COMMIT":
                client.put_object(Bucket="store", Key=f"{prefix}/{twin}/COMMIT", Body=(ours / twin / "COMMIT").read_bytes())

    Between.before = staticmethod(before)
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:%s" % between.server_address[1]
    ran = run(ours if case == "while sending" else theirs, "push", f"s3://store/{prefix}", code=None)
    os.environ["AWS_ENDPOINT_URL"] = os.environ["S3_ENDPOINT"]
    assert seen[1:] == ["now"], seen
    if case == "while sending":
        assert ran.returncode == 1 and "provenance.json" in ran.stderr and "by another program" in ran.stderr, ran.stderr
        run(theirs, "push", f"s3://store/{prefix}")
    else:
        assert ran.returncode == 0 and "pushed 1 artifact " in ran.stdout, ran.stderr
    run(home / prefix, "pull", f"s3://store/{prefix}")
    assert visible(home / prefix) == [twin]
print("two provenances of the same bytes are not mixed, and a mixture is repaired")

client.delete_object(Bucket="store", Key=f"a/b/{names[1]}/COMMIT")
run(home / "half", "pull", "s3://store/a/b")
assert visible(home / "half") == names[:1]
for name, value in [("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ]:
    os.environ[name] = value
    ran = run(home / "down", "pull", "s3://store/a/b", code=1)
    assert "s3://store/a/b" in ran.stderr and "hint: check AWS_ENDPOINT_URL" in ran.stderr, ran.stderr
subprocess.run(["chmod", "-R", "u+w", home])
shutil.rmtree(home)
print("all good")
