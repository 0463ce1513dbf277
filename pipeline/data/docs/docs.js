// Shows /openapi.json. Texts are only ever set as text, so that nothing in the document can become markup.
"use strict";

function element(name, text, parent, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}

function kindOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return choices.map(kindOf).join(" | ");
  if (schema.type === "array") return kindOf(schema.items) + "[]";
  if (schema.type === "object" && schema.additionalProperties)
    return "{name: " + (kindOf(schema.additionalProperties) || "any") + "}";
  return schema.type || "any";
}

function boundsOf(schema) {
  const named = ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "default"];
  return named.filter((name) => schema[name] !== undefined)
    .map((name) => name + " " + JSON.stringify(schema[name])).join(", ");
}

function table(heads, rows, parent) {
  const made = element("table", "", parent);
  const head = element("tr", "", made);
  heads.forEach((text) => element("th", text, head));
  rows.forEach((cells) => {
    const row = element("tr", "", made);
    cells.forEach((text, at) => element("code", text, element("td", "", row)) && at);
  });
}

function contentOf(part) {
  return Object.entries((part && part.content) || {})
    .map(([media, found]) => media + (found.schema ? ": " + kindOf(found.schema) : "")).join(", ");
}

function showOperation(path, method, operation, parent) {
  const made = element("details", "", parent);
  const head = element("summary", "", made);
  element("code", method.toUpperCase(), head, "method");
  element("code", path, head);
  element("span", " " + operation.summary, head);
  if (operation.parameters)
    table(["parameter", "in", "type", "meaning"], operation.parameters.map((found) =>
      [found.name, found.in, kindOf(found.schema), found.description || ""]), made);
  if (operation.requestBody) element("p", "takes " + contentOf(operation.requestBody), made);
  table(["status", "meaning", "gives"], Object.entries(operation.responses).map(([status, found]) =>
    [status, found.description, contentOf(found)]), made);
}

function showModel(name, schema, parent) {
  const made = element("details", "", parent);
  element("code", name, element("summary", "", made));
  if (schema.description) element("p", schema.description, made);
  const required = new Set(schema.required || []);
  table(["field", "type", "bounds", "meaning"], Object.entries(schema.properties || {}).map(([field, found]) =>
    [field + (required.has(field) ? " *" : ""), kindOf(found), boundsOf(found), found.description || ""]), made);
}

async function show() {
  const about = document.getElementById("about");
  try {
    const answer = await fetch("/openapi.json");
    const found = await answer.json();
    about.textContent = found.info.description + " Fields with * are required; errors are problem details (RFC 9457).";
    const operations = document.getElementById("operations");
    for (const [path, methods] of Object.entries(found.paths))
      for (const [method, operation] of Object.entries(methods)) showOperation(path, method, operation, operations);
    const models = document.getElementById("models");
    for (const [name, schema] of Object.entries(found.components.schemas)) showModel(name, schema, models);
  } catch (error) {
    about.textContent = "openapi.json cannot be read: " + error;
  }
}

show();
