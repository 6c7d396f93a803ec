// Tickets that are not what they should be: cut, bent, padded, and signed well over parts that are wrong.
import { createHmac } from "node:crypto";
import { TEST_TICKET_KEY } from "../../support/constants.ts";

/** What stands between the dots of a ticket; what is absent is sound. */
export type Parts = { version?: string; kid?: string; tenant: string; pid?: string; expiry?: string };

/** Seconds from now, as a ticket says them. */
export const inSeconds = (seconds: number) => String(Math.floor(Date.now() / 1000) + seconds);

/** A ticket with a sound signature, whatever its parts say. */
export function signed(parts: Parts, secret = TEST_TICKET_KEY.secret): string {
  const { version = "v1", kid = "1", tenant, pid = "0", expiry = inSeconds(60) } = parts;
  const body = [version, kid, tenant, pid, expiry].join(".");
  return `${body}.${createHmac("sha256", secret).update(body).digest("hex")}`;
}

/** Every beginning of it, from nothing to all but its last character. */
export const cuts = (ticket: string) => [...ticket].map((_, length) => ticket.slice(0, length));

/** Every ticket that differs from it in one bit of one character; a character of no bits cannot be sent. */
export function bitFlips(ticket: string): string[] {
  return [...ticket].flatMap((character, place) =>
    Array.from({ length: 7 }, (_, bit) => character.charCodeAt(0) ^ (1 << bit))
      .filter((code) => code !== 0)
      .map((code) => ticket.slice(0, place) + String.fromCharCode(code) + ticket.slice(place + 1)),
  );
}

/** Every ticket that lacks one of its characters, or has one of them twice. */
export function slips(ticket: string): string[] {
  return [...ticket].flatMap((character, place) => [
    ticket.slice(0, place) + ticket.slice(place + 1),
    ticket.slice(0, place) + character + ticket.slice(place),
  ]);
}

/** Every part in turn replaced by each of the words, under the old signature and under one that is made for it. */
export function replaced(parts: Required<Parts>, words: readonly string[]): string[] {
  const whole = signed(parts).split(".");
  return words.flatMap((word) => [
    ...whole.map((_, place) => whole.map((part, each) => (each === place ? word : part)).join(".")),
    ...(Object.keys(parts) as (keyof Parts)[]).map((name) => signed({ ...parts, [name]: word })),
  ]);
}
