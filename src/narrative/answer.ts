// The answer of a model to a prompt: its shape, and whether it holds. It is checked like the word of any stranger.
import type { JSONSchema7 } from "ai";
import { z } from "zod";
import { parseJson } from "../json.ts";
import type { Candidate } from "./prompt.ts";

/** One finding in words; `{{slot}}` stands where SQL writes a number or a name. */
export type NarratedItem = {
  finding_id: string;
  /** That of its candidate: SQL drops words for a finding that is no longer what the model was shown. */
  mark: string;
  rank: number;
  headline: string;
  why: string;
  caveats: string[];
  remediation_code: string;
};

/** Why an answer was not taken. */
export type AnswerFault =
  | "llm_refused"
  | "llm_truncated"
  | "llm_empty"
  | "llm_invalid_json"
  | "llm_schema_mismatch"
  | "llm_unknown_candidate"
  | "llm_unknown_slot"
  | "llm_digits";

function answerShape(id: z.ZodType<string>, code: z.ZodType<string>) {
  const item = z.strictObject({
    candidate_id: id,
    headline: z.string(),
    why: z.string(),
    caveats: z.array(z.string()),
    remediation_code: code,
  });
  return z.strictObject({ items: z.array(item), summary: z.string() });
}

type Answer = z.infer<ReturnType<typeof answerShape>>;

/** The schema on the wire names the ids and codes that were sent. No number, no length: not all providers know them. */
export function wireSchema(sent: Candidate[]): JSONSchema7 {
  const ids = z.enum(sent.map((each) => each.candidate_id));
  const { $schema: _, ...schema } = z.toJSONSchema(answerShape(ids, z.enum(codesOf(sent))), {
    target: "draft-7",
  });
  return schema as JSONSchema7;
}

function codesOf(sent: Candidate[]): string[] {
  return [...new Set(sent.flatMap((each) => each.remediation_codes))];
}

/** A model's raw answer and how it came to its end. */
export type RawAnswer = { text: string; finishReason: string };

/** What a model has said and every check has let pass. */
export type Wording = { summary: string; items: NarratedItem[] };

const LENGTHS = { headline: 160, why: 600, caveat: 240, caveats: 4, summary: 1_000 };

/**
 * Checks an answer against what was sent, in this order: how it ended, JSON, shape, ids (known, each once), slots,
 * digits outside of slots, lengths. Gives the wording, or the reason of the first check that failed.
 */
export function ground(answer: RawAnswer, sent: Candidate[]): Wording | AnswerFault {
  if (answer.finishReason === "length") return "llm_truncated";
  if (answer.finishReason === "content-filter") return "llm_refused";
  if (answer.text.trim() === "") return "llm_empty";

  const json = parseJson(answer.text);
  if (json === undefined) return "llm_invalid_json";
  // Any id passes here, so that an unknown one is told apart from a wrong shape.
  const parsed = answerShape(z.string(), z.enum(codesOf(sent))).safeParse(json);
  if (!parsed.success) return "llm_schema_mismatch";

  const said = tidied(parsed.data);
  return said.items.length === 0 ? "llm_empty" : (faultOf(said, sent) ?? wordingOf(said, sent));
}

/** Control and format characters are no part of a wording: a terminal would obey them, and jsonb refuses some. */
function tidied(answer: Answer): Answer {
  const tidy = (text: string) => text.replaceAll(/[\p{C}\p{Z}]+/gu, " ").trim();
  return {
    summary: tidy(answer.summary),
    items: answer.items.map((item) => ({
      ...item,
      headline: tidy(item.headline),
      why: tidy(item.why),
      caveats: item.caveats.map(tidy).filter((caveat) => caveat !== ""),
    })),
  };
}

function faultOf(said: Answer, sent: Candidate[]): AnswerFault | undefined {
  const candidates = new Map(sent.map((each) => [each.candidate_id, each]));
  const ids = said.items.map((item) => item.candidate_id);
  if (new Set(ids).size < ids.length || ids.some((id) => !candidates.has(id))) return "llm_unknown_candidate";

  const slotsOf = (id: string) => candidates.get(id)?.slots ?? [];
  const texts = said.items.map((item) => ({
    slots: slotsOf(item.candidate_id),
    text: textsOf(item).join(" "),
  }));
  const bare = [...texts, { slots: [], text: said.summary }].map(({ slots, text }) =>
    withoutSlots(text, slots),
  );
  if (bare.some((text) => /[{}]/.test(text))) return "llm_unknown_slot";
  if (bare.some((text) => /\p{N}/u.test(text))) return "llm_digits";

  const known = said.items.every((item) =>
    candidates.get(item.candidate_id)?.remediation_codes.includes(item.remediation_code),
  );
  return known && said.items.every(fits) && within(said.summary, LENGTHS.summary)
    ? undefined
    : "llm_schema_mismatch";
}

/** The text that the model wrote itself: whatever braces are left in it are not a slot of the list. */
function withoutSlots(text: string, slots: string[]): string {
  return text.replaceAll(/\{\{([a-z0-9_]+)\}\}/g, (all, name: string) => (slots.includes(name) ? "" : all));
}

function textsOf(item: Answer["items"][number]): string[] {
  return [item.headline, item.why, ...item.caveats];
}

function fits(item: Answer["items"][number]): boolean {
  return (
    within(item.headline, LENGTHS.headline) &&
    within(item.why, LENGTHS.why) &&
    item.caveats.length <= LENGTHS.caveats &&
    item.caveats.every((caveat) => within(caveat, LENGTHS.caveat))
  );
}

function within(text: string, max: number): boolean {
  return text.length > 0 && text.length <= max;
}

function wordingOf(said: Answer, sent: Candidate[]): Wording {
  const candidates = new Map(
    sent.map(({ candidate_id, finding_id, mark }) => [candidate_id, { finding_id, mark }]),
  );
  const items = said.items.map(({ candidate_id, headline, why, caveats, remediation_code }, index) => ({
    ...(candidates.get(candidate_id) as { finding_id: string; mark: string }),
    rank: index + 1,
    headline,
    why,
    caveats,
    remediation_code,
  }));
  return { summary: said.summary, items };
}
