package ctl
import ("testing";"time";"fmt";"os";"runtime/debug")
func FuzzHang(f *testing.F){
 for _, text := range []string{"ports: [{interface: eth1}]\n", "a: [2001:db8::1]:80\n", "? a\n: b\n", "- &a\n- *a\n", "a: |\n  b\n", "--- \n...\n", "\t", "a: !!b c","<<: {a: b}\n", "%YAML 1.2\n---\n", "\"a\": 'b'\n","a: >-\n","&a a: *a", string(large(3,2))} {f.Add([]byte(text))}
 f.Fuzz(func(t *testing.T,data []byte){
  tm:=time.AfterFunc(3*time.Second,func(){ debug.SetTraceback("all"); os.WriteFile(fmt.Sprintf("/tmp/hang-%d",os.Getpid()),data,0o644); panic("hang") })
  Parse("f",data); tm.Stop()
 })
}
