// Where this page is: "" at the root of a site, "/bowerbird" where a proxy serves it below that path.
export const ROOT = new URL("../../", import.meta.url).pathname.slice(0, -1);

/** The address of a path of the API. */
export const at = (path) => ROOT + path;
