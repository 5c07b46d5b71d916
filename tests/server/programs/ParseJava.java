// Parses Java sources, whose libraries need not be here. Prints for each file whether it is Java.
import com.sun.source.util.JavacTask;
import java.util.List;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaFileObject;
import javax.tools.ToolProvider;

public class ParseJava {
    public static void main(String[] files) throws Exception {
        var compiler = ToolProvider.getSystemJavaCompiler();
        for (String file : files) {
            var faults = new DiagnosticCollector<JavaFileObject>();
            var manager = compiler.getStandardFileManager(faults, null, null);
            var sources = manager.getJavaFileObjects(file);
            ((JavacTask) compiler.getTask(null, manager, faults, List.of(), null, sources)).parse();
            System.out.println(file + " " + faults.getDiagnostics().isEmpty());
        }
    }
}
