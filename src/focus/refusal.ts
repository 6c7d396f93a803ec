// How an import file is refused: by file, line and column, in words and as facts.
import { AppError } from "../errors.ts";

/** Where in a file something is wrong: lines count from 1, columns go by their name in the header. */
export type Place = { file: string; line: number; column: string };

const VALUE_MAX_CHARACTERS = 80;

/** The error `focus_invalid`: its message names the place in words, `detail` holds it with the value and the reason. */
export function refusal(
  place: Place,
  reason: string,
  more: { value?: string; hint?: string | undefined; cause?: unknown } = {},
): AppError {
  const value = more.value === undefined ? undefined : shown(more.value);
  const where = `${shown(place.file, 255)}, line ${place.line}, column ${shown(place.column)}`;
  return new AppError("focus_invalid", {
    message: `${where}: ${value === undefined ? "" : `"${value}": `}${reason}.`,
    detail: { ...place, ...(value === undefined ? {} : { value }), reason },
    hint: more.hint,
    cause: more.cause,
  });
}

/** A stranger's text, safe to print: cut at 80 characters, control characters as escapes. */
export function shown(text: string, maxCharacters = VALUE_MAX_CHARACTERS): string {
  const cut = text.length > maxCharacters ? `${text.slice(0, maxCharacters - 1)}…` : text;
  return cut
    .toWellFormed()
    .replace(/\p{Cc}/gu, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
