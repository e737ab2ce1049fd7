"""Why records of web archives, and files of them, are not taken."""

REASONS = {
    "other_record": "neither a response nor a resource: text that others extracted, a revisit, a continuation",
    "bad_url": "its address is not http(s) with a host, too long, or no printable text",
    "bad_http": "a response without an HTTP status line",
    "status": "an HTTP status other than 200",
    "not_html": "neither its content type nor what it says is HTML",
    "too_large": "larger than records.max_html_bytes",
    "bomb": "decompressed, more than records.max_ratio times larger",
    "bad_encoding": "compressed or chunked, and damaged from the start",
    "not_text": "cannot be decoded in any encoding",
    "too_deep": "elements nested deeper than extraction.max_depth",
    "empty": "no text in it",
    "timed_out": "took longer than records.timeout_s",
    "crashed": "the process that read it died, of it or of its memory",
    "failed": "an error while it was read",
    "damaged_record": "damaged bytes of a WARC file, up to the next record that can be found",
    "truncated_file": "a WARC file that ends within a record, or is damaged up to its end",
    "not_warc": "a file that does not start like a WARC file",
    "unreadable": "cannot be read",
}
