"""Container images without a registry: layers from files, and an OCI layout of them as one archive."""
import gzip, hashlib, io, json, os, tarfile

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ETC = {"etc": ("dir", 0o755), "tmp": ("dir", 0o1777),
       "etc/passwd": (b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644),
       "etc/group": (b"root:x:0:\nnogroup:x:65534:\n", 0o644)}


class Layout:
    """An archive that grows by images; its blobs lie in FOLDER."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = {}  # digest -> path
        self.images = {}  # name -> (layers, configuration)
        os.makedirs(folder, exist_ok=True)

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = f"{self.folder}/{digest}"
        with open(self.blobs[digest], "wb") as f:
            f.write(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    def layer(self, tar_bytes):
        """A gzip layer: (its descriptor, its diff id)."""
        diff = "sha256:" + hashlib.sha256(tar_bytes).hexdigest()
        d = self.blob(gzip.compress(tar_bytes, 6, mtime=0))
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **d}, diff

    def files(self, entries):
        """A layer from {path: bytes | ('link', target) | ('dir', mode) | (bytes, mode)}."""
        buf = io.BytesIO()
        with tarfile.open(fileobj=buf, mode="w") as t:
            for path, what in entries.items():
                info = tarfile.TarInfo(path.lstrip("/"))
                info.mode = 0o755
                data = b""
                if isinstance(what, tuple) and what[0] == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, what[1]
                elif isinstance(what, tuple) and what[0] == "dir":
                    info.type, info.mode = tarfile.DIRTYPE, what[1]
                else:
                    data, info.mode = what if isinstance(what, tuple) else (what, 0o755)
                    info.size = len(data)
                t.addfile(info, io.BytesIO(data))
        return self.layer(buf.getvalue())

    def image(self, names, layers, **config):
        self.images.update({n: (layers, config) for n in names})

    def write(self, archive):
        manifests = []
        for name, (layers, config) in sorted(self.images.items()):
            config.setdefault("Env", [PATH])
            conf = {"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": [d for _, d in layers]}}
            c = self.blob(json.dumps(conf, sort_keys=True).encode())
            m = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **c}, "layers": [l for l, _ in layers]}
            manifests.append({"mediaType": m["mediaType"], **self.blob(json.dumps(m, sort_keys=True).encode()),
                              "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}})
        with tarfile.open(archive, "w") as t:
            def add(name, data):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
            add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            add("index.json", json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}, indent=1).encode())
            for digest, path in sorted(self.blobs.items()):
                t.add(path, f"blobs/sha256/{digest}")
        print(f"{len(self.images)} images, {os.path.getsize(archive) >> 20} MiB")
