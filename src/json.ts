// JSON from strangers.

/** What a text says, or undefined when it is not JSON (which knows no undefined). Never throws. */
export function parseJson(text: unknown): unknown {
  try {
    return typeof text === "string" ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}
