/** Who acts: the token in this page's memory, and actions sent with it. */

export class Operator {
  /** @param {() => void} changed the operator came or went */
  constructor(changed) {
    this.name = "";
    this.changed = changed;
    this.dialog = document.getElementById("operator");
    this.answer = document.getElementById("operator-answer");
    this.button = document.getElementById("operator-open");
    this.field = document.getElementById("token");
    this.token = "";
    this.button.addEventListener("click", () => this.dialog.showModal());
    document.getElementById("operator-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.use(this.field.value.trim());
    });
    document.getElementById("operator-forget").addEventListener("click", () => this.forget());
  }

  async use(token) {
    this.answer.textContent = "asking …";
    const { ok, body } = await request("operator", { headers: { authorization: `Bearer ${token}` } });
    this.field.value = "";
    if (!ok) {
      this.answer.textContent = body.error;
      return;
    }
    this.token = token;
    this.name = body.name;
    this.answer.textContent = `You are ${body.name}.`;
    this.button.textContent = `Operator: ${body.name}`;
    this.changed();
    this.dialog.close();
  }

  forget() {
    this.token = this.name = this.field.value = "";
    this.answer.textContent = "Forgotten.";
    this.button.textContent = "Operator";
    this.changed();
  }

  /** Send one action; returns what to tell the operator. */
  async act(action) {
    const { ok, body } = await request("actions", {
      method: "POST",
      headers: { authorization: `Bearer ${this.token}`, "content-type": "application/json" },
      body: JSON.stringify(action),
    });
    return ok ? `sent as ${body.id}` : [body.error, body.hint].filter(Boolean).join(": ");
  }
}

async function request(path, options) {
  try {
    const response = await fetch(path, { ...options, cache: "no-store", credentials: "omit", redirect: "error" });
    return { ok: response.ok, body: await response.json() };
  } catch {
    return { ok: false, body: { error: "the wall did not answer", hint: "" } };
  }
}
