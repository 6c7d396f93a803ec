// Finds in any text what belongs to another tenant: its words however they are written, its numbers, ids and moments.

/** The strings that must not be seen, and how one is found. */
export type Leaks = {
  canaries: string[];
  /** The first canary that a text holds, or undefined; what `said` holds too is an echo of what the attacker knew. */
  find(text: string, said?: string): string | undefined;
};

const UUID = /[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}/g;
const MOMENT = /\d{4}-\d{2}-\d{2}[t ]\d{2}:\d{2}:\d{2}\.\d{4,6}/g;

/** A word as it is, backwards, and as the bytes of it are written; all in small letters. */
export function wordForms(word: string): string[] {
  const bytes = Buffer.from(word.toLowerCase());
  const base64 = bytes.toString("base64").replace(/[^A-Za-z0-9]*$/, "");
  return [
    word.toLowerCase(),
    [...word.toLowerCase()].reverse().join(""),
    bytes.toString("hex"),
    base64.slice(0, -1).toLowerCase(),
  ];
}

/** A number that begins with these digits, wherever its point is: random fractions hold any digits further on. */
function beginning(digits: string): RegExp {
  return new RegExp(`(?<![\\d.])${[...digits].join("[.,]?")}`);
}

/**
 * Collects the canaries from the rows of the foreign tenant, as JSON texts. What stands in `known` too, which anybody may
 * read, is no canary. `words` are looked for in all their forms wherever they stand, `numbers` where one begins, ids and moments where a text has one of their kind.
 */
export function leaksOf(of: {
  words: string[];
  numbers: string[];
  foreign: string[];
  known: string[];
}): Leaks {
  const known = of.known.join("\n").toLowerCase();
  const collect = (pattern: RegExp, form: (text: string) => string) =>
    new Set(
      of.foreign
        .flatMap((row) => [...row.toLowerCase().matchAll(pattern)].map(([text]) => text))
        .filter((text) => !known.includes(text))
        .map(form),
    );
  const bare = (text: string) => text.replaceAll("-", "");
  const spaced = (text: string) => text.replace("t", " ");
  const ids = collect(UUID, bare);
  const moments = collect(MOMENT, spaced);
  const words = of.words.map(wordForms);
  const numbers = of.numbers.map(beginning);
  return {
    canaries: [
      ...words.flat(),
      ...of.numbers,
      ...ids,
      ...[...ids].map((id) => id.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-")),
      ...moments,
    ],
    find(text, said = "") {
      const lower = text.toLowerCase();
      const echoed = said.toLowerCase();
      for (const forms of words) {
        const seen = forms.find((form) => lower.includes(form));
        if (seen !== undefined && !forms.some((form) => echoed.includes(form))) return seen;
      }
      for (const number of numbers) {
        const seen = number.exec(lower)?.[0];
        if (seen !== undefined && !number.test(echoed)) return seen;
      }
      const heard = bare(echoed);
      for (const [id] of lower.matchAll(UUID)) if (ids.has(bare(id)) && !heard.includes(bare(id))) return id;
      for (const [moment] of lower.matchAll(MOMENT)) if (moments.has(spaced(moment))) return moment;
      return undefined;
    },
  };
}
