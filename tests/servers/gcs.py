#!/usr/bin/env python3
"""A server that speaks the part of Google Cloud Storage's XML interface that object_store uses, in memory.

Put, get, head, delete, list (list-type=2), copy, uploads in parts, generations, `x-goog-if-generation-match` with 412,
conditional and partial reads, attributes. No authentication. `PUT /BUCKET` makes a bucket; `?versioned` keeps the
generations that are replaced or deleted.

    gcs.py PORT
"""

import hashlib
import re
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

KEPT = ["Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type"]
PAGE = 1000

lock = threading.Lock()
buckets = {}  # name -> {"live": {key: Object}, "old": {(key, generation): Object}, "versioned": bool, "uploads": {id: {number: bytes}}}
generations = [int(time.time() * 1_000_000)]


class Object:
    def __init__(self, data, headers):
        generations[0] += 1
        self.generation = generations[0]
        self.data, self.headers, self.modified = data, headers, time.time()
        self.etag = '"%s-%d"' % (hashlib.md5(data).hexdigest(), self.generation)

    def iso(self):
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.modified)) + ".%03dZ" % (self.modified % 1 * 1000)


class Refused(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        if isinstance(body, str):
            body = body.encode()
        self.send_response(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_method(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        name, _, key = urllib.parse.unquote(url.path[1:]).partition("/")
        try:
            with lock:
                if self.command == "PUT" and not key:
                    buckets.setdefault(name, {"live": {}, "old": {}, "versioned": "versioned" in self.query, "uploads": {}})
                    return self.answer(200)
                if name not in buckets:
                    raise Refused(404, "NoSuchBucket")
                self.bucket = buckets[name]
                if not key:
                    return self.list()
                getattr(self, self.command.lower())(key, body)
        except Refused as e:
            xml = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>%s</Code><Message>%s</Message></Error>"
            self.answer(e.status, xml % (e.code, e.code))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_method

    def list(self):
        q = self.query
        prefix, delimiter = q.get("prefix", ""), q.get("delimiter")
        after = q.get("continuation-token") or q.get("start-after") or ""
        most = min(int(q.get("max-keys", PAGE)), PAGE)
        contents, prefixes, last, more = [], [], "", False
        for key in sorted(self.bucket["live"]):
            if not key.startswith(prefix):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: cut + len(delimiter)] if cut >= 0 else key
            if name <= after or (cut >= 0 and name in prefixes):
                continue
            if len(contents) + len(prefixes) == most:
                more = True
                break
            last = name
            if cut >= 0:
                prefixes.append(name)
            else:
                o = self.bucket["live"][key]
                contents.append(
                    "<Contents><Key>%s</Key><Generation>%d</Generation><LastModified>%s</LastModified>"
                    "<ETag>%s</ETag><Size>%d</Size></Contents>"
                    % (escape(key), o.generation, o.iso(), escape(o.etag), len(o.data))
                )
        xml = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>"
        xml += "".join(contents)
        xml += "".join("<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % escape(p) for p in prefixes)
        if more:
            xml += "<NextContinuationToken>%s</NextContinuationToken>" % escape(last)
        self.answer(200, xml + "</ListBucketResult>")

    def find(self, key):
        asked = self.query.get("generation")
        live = self.bucket["live"].get(key)
        found = live
        if asked is not None:
            found = live if live and str(live.generation) == asked else self.bucket["old"].get((key, asked))
        if found is None:
            raise Refused(404, "NoSuchKey")
        return found

    def retire(self, key):
        old = self.bucket["live"].pop(key, None)
        if old is not None and self.bucket["versioned"]:
            self.bucket["old"][(key, str(old.generation))] = old

    def check_generation(self, key):
        asked = self.headers.get("x-goog-if-generation-match")
        live = self.bucket["live"].get(key)
        if asked is not None and asked != (str(live.generation) if live else "0"):
            raise Refused(412, "PreconditionFailed")

    def described(self, o):
        headers = [("ETag", o.etag), ("x-goog-generation", str(o.generation)), ("Last-Modified", formatdate(o.modified, usegmt=True))]
        return headers + o.headers

    def store(self, key, data, headers):
        self.check_generation(key)
        self.retire(key)
        o = self.bucket["live"][key] = Object(data, headers)
        return o

    def get(self, key, _):
        o = self.find(key)
        h = self.headers
        seconds = int(o.modified)
        when = lambda name: parsedate_to_datetime(h[name]).timestamp()
        if "If-Match" in h and h["If-Match"] != "*" and o.etag not in h["If-Match"]:
            raise Refused(412, "PreconditionFailed")
        if "If-Match" not in h and "If-Unmodified-Since" in h and seconds > when("If-Unmodified-Since"):
            raise Refused(412, "PreconditionFailed")
        if "If-None-Match" in h and (h["If-None-Match"] == "*" or o.etag in h["If-None-Match"]):
            return self.answer(304)
        if "If-None-Match" not in h and "If-Modified-Since" in h and seconds <= when("If-Modified-Since"):
            return self.answer(304)
        data, status, headers = o.data, 200, self.described(o)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", h.get("Range", ""))
        if asked and asked.groups() != ("", ""):
            first, last = asked.groups()
            size = len(data)
            start = int(first) if first else max(0, size - int(last))
            end = min(int(last), size - 1) if first and last else size - 1
            if start >= size or start > end:
                raise Refused(416, "InvalidRange")
            data, status = data[start : end + 1], 206
            headers.append(("Content-Range", "bytes %d-%d/%d" % (start, end, size)))
        headers.append(("Content-Length", str(len(data))))
        self.answer(status, data, headers)

    head = get

    def put(self, key, body):
        upload = self.query.get("uploadId")
        if upload is not None:
            if upload not in self.bucket["uploads"]:
                raise Refused(404, "NoSuchUpload")
            self.bucket["uploads"][upload]["parts"][int(self.query["partNumber"])] = body
            return self.answer(200, headers=[("ETag", '"%s"' % hashlib.md5(body).hexdigest())])
        source = self.headers.get("x-goog-copy-source")
        if source is not None:
            _, _, name = urllib.parse.unquote(source).partition("/")
            if name not in self.bucket["live"]:
                raise Refused(404, "NoSuchKey")
            o = self.bucket["live"][name]
            new = self.store(key, o.data, o.headers)
            xml = "<CopyObjectResult><ETag>%s</ETag></CopyObjectResult>" % escape(new.etag)
            return self.answer(200, xml, [("ETag", new.etag), ("x-goog-generation", str(new.generation))])
        o = self.store(key, body, self.attributes())
        self.answer(200, headers=[("ETag", o.etag), ("x-goog-generation", str(o.generation))])

    def attributes(self):
        taken = [(n, v) for n, v in self.headers.items() if n.title() in KEPT or n.lower().startswith("x-goog-meta-")]
        return taken

    def post(self, key, body):
        if "uploads" in self.query:
            generations[0] += 1
            upload = "upload-%d" % generations[0]
            self.bucket["uploads"][upload] = {"parts": {}, "headers": self.attributes()}
            xml = "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>"
            return self.answer(200, xml % upload)
        upload = self.bucket["uploads"].get(self.query.get("uploadId"))
        if upload is None:
            raise Refused(404, "NoSuchUpload")
        numbers = [int(n) for n in re.findall(r"<PartNumber>(\d+)</PartNumber>", body.decode())]
        if any(n not in upload["parts"] for n in numbers):
            raise Refused(400, "InvalidPart")
        o = self.store(key, b"".join(upload["parts"][n] for n in numbers), upload["headers"])
        del self.bucket["uploads"][self.query["uploadId"]]
        xml = "<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>"
        self.answer(200, xml % escape(o.etag), [("x-goog-generation", str(o.generation))])

    def delete(self, key, _):
        if "uploadId" in self.query:
            self.bucket["uploads"].pop(self.query["uploadId"], None)
            return self.answer(204)
        self.find(key)
        self.retire(key)
        self.answer(204)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
