// Shows openapi.json: each route with what it takes. Texts are set as text, never as HTML.
const add = (parent, name, text) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
};

const main = document.getElementById("routes");
const answer = await fetch("openapi.json");
if (!answer.ok) {
  add(main, "p", (await answer.json()).error.message);
} else {
  const api = await answer.json();
  const named = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const section = add(main, "details");
      add(section, "summary", `${method.toUpperCase()} ${path}  ${route.summary ?? ""}`);
      if (route.description) add(section, "p", route.description);
      for (const parameter of route.parameters ?? []) {
        add(section, "p", `${parameter.in}: ${parameter.name}${parameter.required ? "" : " (optional)"}`);
      }
      for (const [kind, body] of Object.entries(route.requestBody?.content ?? {})) {
        add(section, "p", kind);
        add(section, "pre", JSON.stringify(named(body.schema), null, 2));
      }
    }
  }
}
