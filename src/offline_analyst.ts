// The model for when there is none: deterministic rules behind the wire of an OpenAI-compatible chat completion.
import { createHash } from "node:crypto";
import { z } from "zod";
import { parseJson } from "./json.ts";

/** The sentence with which it names itself in every answer. */
export const OFFLINE_NOTICE = "Worded offline by deterministic rules, not by a language model.";

const tokens = z.int().min(1).optional();

const Request = z.object({
  model: z.string(),
  messages: z.array(z.object({ role: z.string(), content: z.string() })).min(1),
  max_tokens: tokens,
  max_completion_tokens: tokens,
  response_format: z.object({ type: z.string() }).optional(),
});

/**
 * A `fetch` that answers `POST …/chat/completions` itself. It reads the table of candidates out of the last user
 * message, ranks, groups and words it, and answers as the requested format says. The same prompt has the same answer.
 * Tokens are counted as a quarter of the bytes, rounded up; what goes beyond `max_tokens` is cut, as a model's is.
 */
export const offlineAnalyst: typeof fetch = async (input, init) => {
  const path = new URL(input instanceof globalThis.Request ? input.url : input).pathname;
  if (!path.endsWith("/chat/completions") || init?.method !== "POST") return refusal(404, "no such endpoint");
  const request = Request.safeParse(parseJson(init.body));
  if (!request.success) return refusal(400, z.prettifyError(request.error));

  const { messages, response_format, max_tokens, max_completion_tokens } = request.data;
  const answer = wordingOf(
    candidatesIn(messages.findLast((message) => message.role === "user")?.content ?? ""),
  );
  const text = response_format?.type.startsWith("json") ? JSON.stringify(answer) : answer.summary;
  return completion(
    messages.map((message) => message.content).join("\n"),
    text,
    max_tokens ?? max_completion_tokens,
  );
};

function completion(prompt: string, text: string, maxTokens = Number.POSITIVE_INFINITY): Response {
  const cut = tokensOf(text) > maxTokens;
  const content = cut ? firstBytes(text, maxTokens * BYTES_PER_TOKEN) : text;
  const usage = { prompt_tokens: tokensOf(prompt), completion_tokens: tokensOf(content) };
  return Response.json({
    id: `chatcmpl-offline-${createHash("sha256").update(prompt).digest("hex").slice(0, 24)}`,
    object: "chat.completion",
    created: Math.floor(Date.now() / 1000),
    model: "offline-analyst",
    system_fingerprint: "offline-analyst",
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: cut ? "length" : "stop" }],
    usage: { ...usage, total_tokens: usage.prompt_tokens + usage.completion_tokens },
  });
}

function refusal(status: number, message: string): Response {
  return Response.json({ error: { message, type: "invalid_request_error", code: null } }, { status });
}

const BYTES_PER_TOKEN = 4;

function tokensOf(text: string): number {
  return Math.ceil(Buffer.byteLength(text) / BYTES_PER_TOKEN);
}

/** At most `bytes` of a text; a character that does not fit whole is left out. */
function firstBytes(text: string, bytes: number): string {
  return new TextDecoder().decode(Buffer.from(text).subarray(0, bytes), { stream: true });
}

// What it reads.

type Candidate = { id: string; detector: string; severity: string; slots: string[]; codes: string[] };

/** The lines under the header that begins with `candidate_id`; columns are found by their names. */
function candidatesIn(text: string): Candidate[] {
  const lines = text.split("\n").map((line) => line.split("\t"));
  const header = lines.findIndex((cells) => cells[0] === "candidate_id");
  if (header < 0) return [];
  const columns = lines[header] ?? [];
  return lines.slice(header + 1).map((cells) => {
    const cell = (name: string) => cells[columns.indexOf(name)] ?? "";
    const list = (name: string) => cell(name).split(",").filter(Boolean);
    return {
      id: cell("candidate_id"),
      detector: cell("detector"),
      severity: cell("severity"),
      slots: list("slots"),
      codes: list("remediation_codes"),
    };
  });
}

// What it says. No digit is written here: a slot stands where SQL writes a number or a name.

type Wording = {
  items: {
    candidate_id: string;
    headline: string;
    why: string;
    caveats: string[];
    remediation_code: string;
  }[];
  summary: string;
};

const SEVERITIES = ["critical", "high", "medium", "low", "info"];

/** Ranks by severity, keeps a detector's candidates side by side within one, and leaves the given order otherwise. */
function wordingOf(candidates: Candidate[]): Wording {
  const ranked = SEVERITIES.concat("").flatMap((severity) => {
    const peers = candidates.filter((each) => severityOf(each) === severity);
    return [...Map.groupBy(peers, (each) => each.detector).values()].flat();
  });
  return { items: ranked.map(itemOf), summary: summaryOf(ranked) };
}

function severityOf(candidate: Candidate): string {
  return SEVERITIES.includes(candidate.severity) ? candidate.severity : "";
}

/** `headline` and `why` are alternatives, the fullest first: the first is said whose slots the candidate has. */
type Phrases = { subject: string; headline: string[]; why: string[]; caveats: string[] };

/** By what is to be done, which says what was found. */
const PHRASES = new Map<string, Phrases>([
  [
    "tag_resources",
    {
      subject: "spend that no tag assigns to anyone",
      headline: [
        '{{untagged}} of the {{window}} carries no "{{tag}}"',
        "Spend that no tag assigns to anyone",
      ],
      why: [
        "Nobody answers for {{untagged_share}} of {{total}}. Most often it is {{service}}, so begin there.",
        "Nobody answers for a cost that no tag assigns, so nobody lowers it.",
      ],
      caveats: ["Some charges cannot carry a tag."],
    },
  ],
  [
    "investigate_running_increase",
    {
      subject: "cost that rose and has stayed up",
      headline: [
        "{{service}} has cost {{excess_per_day}} a day more since {{first_day}}",
        "A cost that stays up",
      ],
      why: [
        "In {{sub_account}}, {{region}}, a day costs {{cost}}, not {{baseline}}. A month of it is {{monthly_saving}}.",
        "A cost that rose and stays up is paid again every day.",
      ],
      caveats: ["Growth that was planned looks the same."],
    },
  ],
  [
    "explain_spike",
    {
      subject: "spikes that are over",
      headline: ["{{service}} cost {{excess}} more than usual from {{first_day}}", "A spike that is over"],
      why: [
        "In {{sub_account}}, {{region}}, a day cost {{cost}}, not {{baseline}}, on {{days}}. It has ended by itself.",
        "It has ended by itself; what is not explained comes back.",
      ],
      caveats: ["A one-off purchase looks the same."],
    },
  ],
]);

function phrasesOf(candidate: Candidate): Phrases {
  const subject = candidate.detector.replaceAll(/[^a-z]+/g, " ").trim() || "a finding";
  const plain = {
    subject,
    headline: [`Worth a look: ${subject}`],
    why: ["A rule has marked it."],
    caveats: [],
  };
  return PHRASES.get(candidate.codes[0] ?? "") ?? plain;
}

function itemOf(candidate: Candidate): Wording["items"][number] {
  const phrases = phrasesOf(candidate);
  return {
    candidate_id: candidate.id,
    headline: sayable(phrases.headline, candidate.slots),
    why: sayable(phrases.why, candidate.slots),
    caveats: phrases.caveats,
    remediation_code: candidate.codes[0] ?? "",
  };
}

function sayable(phrases: string[], slots: string[]): string {
  const named = (phrase: string) => [...phrase.matchAll(/\{\{(\w+)\}\}/g)].map((match) => match[1] ?? "");
  return phrases.find((phrase) => named(phrase).every((slot) => slots.includes(slot))) ?? "";
}

function summaryOf(ranked: Candidate[]): string {
  const [first] = ranked;
  if (first === undefined) return `${OFFLINE_NOTICE} There was nothing to word.`;
  const subjects = [...new Set(ranked.map((each) => phrasesOf(each).subject))];
  return `${OFFLINE_NOTICE} What stands out: ${subjects.join(", then ")}. Begin with the first finding.`;
}
