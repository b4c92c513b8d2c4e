// Verifies the vectors in the file that the argument names.
const jose = require("jose"), { subtle } = globalThis.crypto
const bytes = (text) => new TextEncoder().encode(text)
const hex = (data) => Buffer.from(data).toString("hex")

async function main() {
  let valid = 0
  const { now, vectors } = JSON.parse(require("fs").readFileSync(process.argv[2], "utf8"))
  for (const v of vectors) {
    const input = await subtle.importKey("raw", bytes(v.token), "HKDF", false, ["deriveBits"])
    const hkdf = { name: "HKDF", hash: "SHA-256", salt: bytes(""), info: bytes("caddy-apikeys/derive/1") }
    if (hex(await subtle.deriveBits(hkdf, input, 256)) !== v.seed) throw new Error("another seed: " + v.name)
    if (v.verdict !== "ok") continue
    const x = jose.base64url.encode(Buffer.from(v.public_key, "hex"))
    const key = await jose.importJWK({ kty: "OKP", crv: "Ed25519", x }, "EdDSA")
    const options = { typ: "ak+jwt", algorithms: ["EdDSA"], currentDate: new Date(now * 1000), clockTolerance: 60 }
    await jose.jwtVerify(v.jwt, key, options)
    valid++
  }
  if (valid < 10) throw new Error(`only ${valid} valid tokens`)
}

main().catch((err) => { console.error(err); process.exit(1) })
