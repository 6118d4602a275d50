"""`bowerbird serve`: one address with a page, an API that the page uses, and the OpenAI images API.

The web process has no torch in it, so that it answers while models work: `app` and the routes, the queue (`jobs`), the
store of jobs and pictures (`store`), the knowledge bases (`shelf`). Children do the rest: `worker` holds pipelines and
encoders, one a device; `decoder` reads pictures that strangers sent; `ingest` adds to a knowledge base. Routes own no
logic: what one does is a call of the library that a Python user can make too.
"""
