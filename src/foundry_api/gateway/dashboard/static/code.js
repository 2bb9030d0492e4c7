// A chat request as code. The key is a placeholder: the page does not know it.

export const LANGUAGES = [
  { id: "curl", title: "curl" },
  { id: "foundry_api", title: "Python, foundry-api" },
  { id: "openai", title: "Python, openai" },
];

export function writeCode(language, body, origin) {
  return { curl: writeCurl, foundry_api: writeFoundryApi, openai: writeOpenai }[language](body, origin);
}

function writeCurl(body, origin) {
  const data = JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $FOUNDRY_API_KEY" \\\n` +
    `  -H "Content-Type: application/json" \\\n  -d '${data}'\n`;
}

function writeFoundryApi({ model, messages, response_format: format, ...options }, origin) {
  const lines = [`model=${toPython(model)}`, ...listArguments(options)];
  if (format) {
    return `import os\n\nfrom foundry_api import FoundryClient\n\nmessages = ${toPython(messages)}\n` +
      `schema = ${toPython(format.json_schema.schema)}\n\n` +
      `with FoundryClient(${toPython(origin)}, api_key=os.environ["FOUNDRY_API_KEY"]) as client:\n` +
      `    answer = client.chat(messages, response_model=schema, ${lines.join(", ")})\n    print(answer.parsed)\n`;
  }
  return `import os\n\nfrom foundry_api import FoundryClient\n\nmessages = ${toPython(messages)}\n\n` +
    `with FoundryClient(${toPython(origin)}, api_key=os.environ["FOUNDRY_API_KEY"]) as client:\n` +
    `    for chunk in client.stream_chat(messages, ${lines.join(", ")}):\n        print(chunk.content, end="", flush=True)\n`;
}

function writeOpenai({ model, messages, response_format: format, ...options }, origin) {
  const lines = [`model=${toPython(model)}`, `messages=${toPython(messages, 1)}`, ...listArguments(options)];
  if (format) lines.push(`response_format=${toPython(format, 1)}`);
  lines.push("stream=True");
  return `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${toPython(`${origin}/v1`)}, ` +
    `api_key=os.environ["FOUNDRY_API_KEY"])\nstream = client.chat.completions.create(\n` +
    `${lines.map((line) => `    ${line},\n`).join("")})\nfor chunk in stream:\n` +
    "    if chunk.choices:\n        print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)\n";
}

const listArguments = (options) => Object.entries(options).map(([name, value]) => `${name}=${toPython(value)}`);

// A value of JSON as a Python literal.
function toPython(value, depth = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList ? value.map((item) => toPython(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${toPython(item, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length + depth * 4 < 90 && !line.includes("\n")) return line;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${items.map((item) => `${indent}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
